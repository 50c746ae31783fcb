"""Frozen item vectors for `ctr-rec prepare --content`: from the items' text, or from who met which items together."""
