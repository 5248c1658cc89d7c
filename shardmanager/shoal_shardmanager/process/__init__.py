"""A manager's process: clocks, sockets and tasks around the pure decisions of `control`.

`leadership` turns the crank while this manager leads; `node_watcher` polls nodes and carries requests to them,
`request_sender` repeats those that fail, `store` writes the rows, `migrator` and `migrators` carry the rows of microshards
from one shard's leader to another's, `service` answers the control RPC, `manager` is all of it as a process.
"""
