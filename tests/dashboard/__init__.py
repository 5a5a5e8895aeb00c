"""Tests of the dashboard in a real browser, with real stores that contain a real run."""
