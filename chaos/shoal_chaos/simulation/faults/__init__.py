"""What goes wrong: the usual faults, and a module for each mix of others."""
