"""The demonstration behind `make demo`: real processes, a real data set, and a leader killed under load."""
