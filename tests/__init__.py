"""Tests: sentences over real parts."""
