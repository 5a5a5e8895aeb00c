"""The dashboard in a real browser, over a real `agl store` with a real run in it."""
