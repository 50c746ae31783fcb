"""ctr-rec: sharded sparse tables, jagged behaviour sequences and dense towers for click-through-rate prediction."""

__version__ = "0.1.0"
