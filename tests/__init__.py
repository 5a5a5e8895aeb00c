"""Tests with real components. Each name states a condition and the expected result."""
