"""Light loads on every shard of a keyspace, which show what callers notice: call after call, or calls at fixed times."""
