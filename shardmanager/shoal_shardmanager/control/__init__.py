"""What the managers decide, as a pure function of what they remember and what the nodes last said.

Reading order: `rows` and `state` (what is remembered), `observed` (what nodes report), `operations/` (what is done, step by
step), `requests/` (what may be asked for), `operation_queue` (when it begins), `controller` (all decisions of one moment).
"""
