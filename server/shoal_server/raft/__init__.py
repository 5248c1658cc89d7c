"""The Raft core: pure, without clock, socket, thread or disk."""
