"""The control plane of Shoal: to come. Until then the shard map is computed once, from `cluster.yaml`."""
