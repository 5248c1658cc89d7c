"""The client's pure core: from calls to requests, per node, and back. No socket, clock, thread or chance of its own.

`router` is what the driver talks to. `calls` go into the queue of their shard (`shard_queue`), which `schedule` has looked
at; `sending` makes requests of them (`requests`), to whom `replica_selector` says, over one of the `links` of the `network`.
`answers` come back; `endings` are how calls end that do not get what they asked for, `call_errors` what is said then.
"""
