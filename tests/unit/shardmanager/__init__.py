"""The shard manager, against a cluster without nodes that checks every step."""
