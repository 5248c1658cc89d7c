"""The control plane of Shoal: replicated cluster state, placement, durable operations, and the RPC to ask for them.

Reading order: rows.py and state.py (what is remembered), view.py (what nodes report), operations/ (what is done, step by
step), orders/ (what may be asked), queueing.py (when it begins), controller.py (all decisions of one moment); then the
shells: store.py, nodes.py, courier.py, ferry.py and ferries.py (rows on their way between shards), driver.py, rpc/,
process.py, cli.py.
"""
