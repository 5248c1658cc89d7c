"""The client's pure core: from calls to requests, per node, and back. No socket, clock, thread or chance of its own.

`router` is what the driver talks to, `dispatch` the traffic of one shard after another, `shard_queue` what is kept for
each; `calls` travel through it, `requests` come out, `links` and `network` are what is known of the nodes, and
`call_errors` what is said when a call fails.
"""
