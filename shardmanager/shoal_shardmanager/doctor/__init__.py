"""Looks over a cluster: gathers what its processes say, judges it, and says what is wrong and what to do."""
