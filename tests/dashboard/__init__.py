"""Tests of the dashboard in a real browser, over real stores that hold a real run."""
