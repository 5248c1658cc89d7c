"""The configuration of a cluster: `cluster.yaml` and `SHOAL_...` variables, validated whole before anything starts."""

from shoal_server.config.load import ConfigError, load_config, parse_config
from shoal_server.config.schema import ClusterConfig, KeyspaceConfig, NodeConfig

__all__ = ["ClusterConfig", "ConfigError", "KeyspaceConfig", "NodeConfig", "load_config", "parse_config"]
