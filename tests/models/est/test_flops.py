"""EST's arithmetic against PyTorch's counter, on ragged batches and on single requests; contents are compared apart."""

from __future__ import annotations

import pytest

from ctr_rec.batch.request import request_batch
from ctr_rec.models.est.tower import ESTTower
from ctr_rec.models.tower import Filling
from tests.models.est.compares import replayed
from tests.models.est.test_tower import CASES
from tests.models.flops import assert_flops_match, build
from tests.models.streams import CONTENT, make_batch, random_log


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
    unseen = tower.csa_flops(batch)
    assert_flops_match(config, CONTENT, batch, unseen=unseen, ops=replayed(monkeypatch))
