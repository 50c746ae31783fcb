"""Attention heads that share a token's width among them."""

from __future__ import annotations


def head_width(heads: int, width: int) -> int:
    """Width of one of `heads` heads. Raises ValueError where they do not divide `width`, a setting's tokens.width."""
    if width % heads:
        raise ValueError(f"heads is {heads} and tokens.width {width}; choose a width that heads divide")
    return width // heads
