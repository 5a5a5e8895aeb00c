"""Fault tests: lost messages, killed processes, failing disks. Each module also has a longer run as a command."""
