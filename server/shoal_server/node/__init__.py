"""The node: all its replicas in one turn, and the process around them."""
