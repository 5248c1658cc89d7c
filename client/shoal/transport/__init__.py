"""The client's input and output: `driver` turns the router with asyncio's sockets, clock and futures.

`connection` is one to a node, `embedded` one to a database in this process, `portal` the thread behind the blocking client.
"""
