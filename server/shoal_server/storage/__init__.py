"""What a node keeps on disk: RocksDB, the layout of keys and values, the log, snapshots, group commit."""
