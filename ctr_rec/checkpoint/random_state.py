"""The random states of a process as plain arrays, so that a resumed rank draws what it would have drawn."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """States of Python, NumPy and torch (CPU, and the current CUDA device): arrays and JSON values only."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    assert name == "MT19937"
    state: dict[str, Any] = {
        "python_words": np.array(words, dtype=np.uint64),
        "python_rest": [version, gauss],
        "numpy_keys": np.asarray(keys),
        "numpy_rest": [int(position), int(has_gauss), float(cached)],
        "torch_cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["torch_cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Sets what `random_state` returned, after a round trip through a checkpoint."""
    version, gauss = state["python_rest"]
    random.setstate((version, tuple(int(w) for w in state["python_words"]), gauss))
    position, has_gauss, cached = state["numpy_rest"]
    np.random.set_state(("MT19937", state["numpy_keys"], position, has_gauss, cached))
    torch.set_rng_state(torch.as_tensor(state["torch_cpu"], dtype=torch.uint8))
    if "torch_cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.as_tensor(state["torch_cuda"], dtype=torch.uint8))
