"""The wire protocol: typed messages in length-prefixed frames of MessagePack."""
