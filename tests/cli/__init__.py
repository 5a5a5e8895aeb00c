"""What is done from a terminal, as real processes."""
