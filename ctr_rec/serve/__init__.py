"""The split run: what a user's history comes to is kept, and candidates are scored against it when they arrive.

`scorer.py` the scorer, `cache.py` its states, `candidates.py` micro-batches of candidates against a state,
`log_users.py` histories and candidates from a prepared log, `split_run.py` a whole split scored this way, to compare.
"""
