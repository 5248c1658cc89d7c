"""The node: all its replicas in one turn. Pure: time, chance, the disk and what others say come in, what to send comes out."""
