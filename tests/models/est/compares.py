"""What compares contents, to count arithmetic without it: `content_flops` counts it, true lengths and all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

_COMPARES = (
    "ctr_rec.layers.token_inputs.retrieve",
    "ctr_rec.layers.token_inputs.similarities",
    "ctr_rec.models.est.tower.neighbours",
    "ctr_rec.models.est.packed.window_neighbours",
)


def replayed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[..., Any]]:
    """Remembers what each returns, and gives stand-ins that return the same again without computing it."""
    return {name: _replayed(monkeypatch, name) for name in _COMPARES}


def _replayed(monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[..., Any]:
    kept: list[Any] = []
    module, attribute = name.rsplit(".", 1)
    function = getattr(__import__(module, fromlist=[attribute]), attribute)

    def remember(*args: Any, **more: Any) -> Any:
        kept.append(function(*args, **more))
        return kept[-1]

    monkeypatch.setattr(name, remember)
    return lambda *args, **more: kept.pop(0)
