"""A stage: a stretch of training with one set of trainable parameters and one loss. Data, not code in the loop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """epochs: passes over the training range in this stage; the reader's shuffle counts epochs over the whole run."""

    name: str
    epochs: int
