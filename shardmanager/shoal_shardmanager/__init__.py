"""The control plane of Shoal: replicated cluster state, placement, durable operations, and the RPC to ask for them.

Reading order: rows.py and state.py (what is remembered), view.py (what nodes report), operations/ (what is done, step by
step), orders.py (what may be asked), controller.py (all decisions of one moment); then the shells: store.py, nodes.py,
driver.py, rpc/, process.py, cli.py.
"""
