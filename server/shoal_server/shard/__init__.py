"""The state machine of a shard: commands, their effects, deduplication."""
