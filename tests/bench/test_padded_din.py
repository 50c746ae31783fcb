"""The padded DIN reads the histories of a batch, and nothing that ours alone can read."""

from __future__ import annotations

import pytest

from ctr_rec.bench.din_log import LAST
from ctr_rec.bench.padded_din import PaddedDIN, pad
from ctr_rec.models.baselines.din import DINConfig
from tests.bench.conftest import Prepared


def test_rectangles_hold_the_histories_in_order(prepared: Prepared) -> None:
    batch = prepared[2][0]
    for name, padded in pad(batch, LAST).items():
        history = batch.histories[name]
        assert padded.mask_NL.sum(1).tolist() == history.lengths().tolist()
        assert padded.item_NL[padded.mask_NL].tolist() == batch.event_item[history.values].tolist()


def test_what_a_pair_says_beyond_its_items_is_refused(prepared: Prepared) -> None:
    run, spec, _ = prepared
    with pytest.raises(AssertionError, match="items only"):
        PaddedDIN(spec, DINConfig(), tuple(run.data.channels))
