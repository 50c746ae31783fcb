"""Checkpoints to look into: one of ours from two ranks, and what another TorchRec job would leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.checkpoint.store import save
from ctr_rec.sharding.group import Group
from tests.checkpoint.test_store import start, state_of, whole_state
from tests.ranks import run_ranks
from tests.sharding.test_parallelize import SPREAD, step


def _save(group: Group, folder: Path, kind: str, manifest: Manifest) -> dict[str, np.ndarray]:
    parallel, dense = start(group, kind, SPREAD)
    for k in range(2):
        step(parallel, dense, k)
    placed = manifest.model_copy(update={"plan": parallel.plan.model_dump(mode="json")})
    save(folder, state_of(parallel, dense), placed, {}, group)
    return whole_state(parallel, dense)


def save_ours(folder: Path, kind: str = "rowwise_adagrad", manifest: Manifest | None = None) -> dict[str, np.ndarray]:
    """Saves by two ranks after two steps, tables spread over them; returns everything whole, by name."""
    return run_ranks(_save, 2, folder, kind, manifest or Manifest(step=2))[0]


class Marker:
    """Not in any list of harmless classes."""

    ran = False

    def __setstate__(self, state: dict[str, object]) -> None:
        Marker.ran = True


def save_another_jobs(folder: Path) -> dict[str, torch.Tensor]:
    """A table under its own names, elementwise Adagrad's `sum`, a dense layer, and an entry that is no tensor."""
    torch.manual_seed(0)
    table, sums = torch.randn(50, 4), torch.rand(50, 4)
    sums[10:20] = 0
    name = "sparse.ebc.embedding_bags.shop.weight"
    state = {name: table, f"optim.state.{name}.sum": sums, "over.linear.weight": torch.randn(3, 4), "extra": Marker()}
    save_distributed(state, checkpoint_id=folder, no_dist=True)
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
