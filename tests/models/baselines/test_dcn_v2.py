"""DCN-V2: both structures against their definition, ablations and empty batches."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.models.baselines.dcn_v2 import DCNv2Config, Structure
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges, check_switch
from tests.models.streams import CHANNELS, SPEC, look_up, make_batch, random_log

SMALL = MLPSettings(hidden=(6, 4), dropout=0.0)


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("structure", list(Structure))
def test_structure(structure: Structure, rank: int | None) -> None:
    config = DCNv2Config(mlp=SMALL, structure=structure, rank=rank)
    tower = config.build(SPEC, tuple(CHANNELS)).double()
    batch = make_batch(random_log(0), Filling.POINTWISE)
    embedded = look_up(batch)
    x = tower.inputs(embedded, batch)
    crossed = tower.cross(x)
    parallel = structure is Structure.PARALLEL
    expected = torch.cat([crossed, tower.mlp(x)], -1) if parallel else tower.mlp(crossed)
    out = tower(embedded, batch)
    assert torch.equal(out, expected)
    assert out.shape[1] == tower.out_width == (x.shape[1] + 4 if parallel else 4)


def test_flops_count_crosses_and_mlp() -> None:
    tower = DCNv2Config(mlp=SMALL, cross_layers=2).build(SPEC, tuple(CHANNELS))
    batch = make_batch(random_log(0), Filling.POINTWISE)
    n, d = batch.num_impressions, tower.inputs.width
    dense = n * 2 * (2 * d * d + 2 * d) + n * 2 * (d * 6 + 6 * 4)
    assert tower.flops(batch) == tower.inputs.flops(batch) + dense


@pytest.mark.parametrize("switch", ["use_action", "use_profile", "use_request", "use_counters", "use_time"])
def test_each_switch_removes_its_input(switch: str) -> None:
    check_switch(DCNv2Config(mlp=SMALL), switch)


@pytest.mark.parametrize("structure", list(Structure))
def test_edges(structure: Structure) -> None:
    check_edges(DCNv2Config(mlp=SMALL, structure=structure))
