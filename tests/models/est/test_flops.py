"""EST's arithmetic against PyTorch's counter, on ragged batches and on single requests; contents are compared apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ctr_rec.batch.request import request_batch
from ctr_rec.models.est.tower import ESTTower
from ctr_rec.models.tower import Filling
from tests.models.est.test_tower import CASES
from tests.models.flops import assert_flops_match, build
from tests.models.streams import CONTENT, make_batch, random_log

# What compares contents: its products are counted by `content_flops`, true lengths and all.
COMPARES = (
    "ctr_rec.layers.token_inputs.retrieve",
    "ctr_rec.layers.token_inputs.similarities",
    "ctr_rec.models.est.tower.neighbours",
)


def _replayed(monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[..., Any]:
    """Remembers what the function returns, and gives a stand-in that returns the same again without computing it."""
    kept: list[Any] = []
    module, attribute = name.rsplit(".", 1)
    function = getattr(__import__(module, fromlist=[attribute]), attribute)

    def remember(*args: Any, **more: Any) -> Any:
        kept.append(function(*args, **more))
        return kept[-1]

    monkeypatch.setattr(name, remember)
    return lambda *args, **more: kept.pop(0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("alone", [False, True], ids=["batch", "request"])
def test_est_counts_what_pytorch_counts(name: str, alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CASES[name]
    batch = make_batch(random_log(2, delay=1), Filling.POINTWISE, CONTENT)
    if alone:
        batch = request_batch(batch, int(batch.history_length.argmax()), candidates=7)
        assert batch.num_events > 2
    tower = build(config, CONTENT)
    assert isinstance(tower, ESTTower)
    # The weighted sums of CSA are no matrix product.
    unseen = tower._csa_flops(tower._sequences(batch))
    ops: dict[str, Callable[..., Any]] = {name: _replayed(monkeypatch, name) for name in COMPARES}
    assert_flops_match(config, CONTENT, batch, unseen=unseen, ops=ops)
