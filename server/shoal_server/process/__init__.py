"""A node's process: event loop, sockets, clocks and threads around the pure core in `node`.

`driver` turns the core, `connections` and `peers` bring it what others say, `health` watches the machine, `server` is all of
it as a process.
"""
