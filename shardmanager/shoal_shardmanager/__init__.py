"""The control plane of Shoal, in three wings: what is decided, the process that does it, and what operators see of it.

- Pure core: `control/` (what is remembered, what is observed, what follows from both) and `placement/` (where replicas belong).
  No clock, socket, thread or disk: time and what nodes report come in, rows to write and requests to send come out.
- Process: `process/`, which gathers reports, writes the rows, sends the requests and carries rows from shard to shard.
- Face: `rpc/` (the protocol), `cli/` (the commands), `doctor/` (what is wrong, and what to do).

Read first: `control/rows.py`, `control/controller.py`, `process/leadership.py`.
"""
