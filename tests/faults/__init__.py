"""What goes wrong in the world: lost answers, killed processes. Each can be run by hand for longer."""
