"""GRAB (Baidu, arXiv 2602.01865): sequence-first ranking over whole packed users, with query-aware relative attention.

    events of one user   a b c d          partial tokens: what happened, with the action
    impressions          x y              full tokens: all that is needed to score, never the own action
                                          x (after b) attends to a b x, y (after d) to a b c d y

A full token is a query against the partial tokens' keys and values and against a key of its own; T keys and T + N
queries, never 2T x 2T. A full token that is no impression would be read by nobody, so only impressions have one.

`config.py` the settings, `tokenizer.py` tokens, `profile.py` tokens of unchanging attributes, `channels.py` behaviour
subsets and what is visible in them, `layer.py` one layer of one channel and the mixing of target tokens, `tower.py` all
of it.
"""
