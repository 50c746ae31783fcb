"""`ctr-rec scale`: does a model gain from being larger, and how fast? A family of runs, a power law, an interval.

`family.py` what is varied; `runs.py` trains and scores each size and seed, or finds it done; `power_law.py` the fit;
`curve.py` gains, draws of users and seeds, and what can be said; `report.py` table, files and drawing; `main.py` the
command.
"""
