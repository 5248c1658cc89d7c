"""A whole cluster in one process, on a simulated clock, network and disk, from one seed."""
