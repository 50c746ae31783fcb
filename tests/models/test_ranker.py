"""Front, tower and head together on real tables: logits, gradients to every part, every filling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ctr_rec.batch.batch import Batch, Jagged, Level
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.grab.config import Behaviours, Views
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.ranker import BESIDE, Branch, Ranker
from ctr_rec.models.tower import Filling, TowerConfig
from tests.models.streams import CHANNELS, SPEC, make_batch, random_log, spec_of
from tests.models.test_no_leak import CASES


def _float(batch: Batch) -> Batch:
    def level(values: Level) -> Level:
        vectors = {k: v.float() for k, v in values.vectors.items()}
        return replace(values, numbers={k: v.float() for k, v in values.numbers.items()}, vectors=vectors)

    levels = {name: level(getattr(batch, name)) for name in ("users", "items", "events", "impressions")}
    return replace(batch, **levels)


def _is_partial(config: TowerConfig) -> bool:
    """Partial tokens read no profile."""
    return isinstance(config, GRABConfig) and config.views is Views.PARTIAL


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_scores_and_trains(config: TowerConfig) -> None:
    spec = spec_of(config)
    batch = _float(make_batch(random_log(1), config.filling, spec))
    channels = tuple(CHANNELS) if config.filling is Filling.POINTWISE else ()
    ranker = Ranker(spec, config, channels, front_device="cpu")
    optimizer = torch.optim.Adam(ranker.parameters(), lr=0.01)
    first = None
    for _ in range(30):
        logits = ranker(batch)
        assert logits.shape == batch.label.shape
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.label)
        first = first if first is not None else loss.item()
        optimizer.zero_grad()
        loss.backward()
        idle = {name for name, p in ranker.named_parameters() if p.grad is None}
        assert idle == ({"front.bags.embedding_bags.user.weight"} if _is_partial(config) else set())
        optimizer.step()
    assert loss.item() < 0.8 * first


TOWER = GRABConfig(width=6, heads=2, head_width=3, ffn=6, span=5, channels={"all": Behaviours(window=5)}, dropout=0)


def _with_beside(channels: tuple[str, ...]) -> Ranker:
    return Ranker(SPEC, TOWER, channels, front_device="cpu", beside=DINConfig()).eval()


def test_either_branch_is_what_it_would_be_alone() -> None:
    channels = tuple(CHANNELS)
    both = _with_beside(channels)
    log = random_log(1)
    packed, pointwise = (_float(make_batch(log, filling)) for filling in (Filling.PACKED, Filling.POINTWISE))
    own, other = both(packed), both(pointwise, branch=Branch.BESIDE)
    alone = Ranker(SPEC, TOWER, (), front_device="cpu").eval()
    alone.load_state_dict({k: v for k, v in both.state_dict().items() if not k.startswith(BESIDE)})
    assert torch.equal(alone(packed), own)
    din = Ranker(SPEC, DINConfig(), channels, front_device="cpu").eval()
    front = {k: v for k, v in both.state_dict().items() if k.startswith("front")}
    second = {k.removeprefix(BESIDE): v for k, v in both.state_dict().items() if k.startswith(BESIDE)}
    din.load_state_dict(front | second)
    assert torch.equal(din(pointwise), other)


def test_channels_of_the_second_network_do_not_reach_the_tower() -> None:
    ranker, batch = _with_beside(tuple(CHANNELS)), _float(make_batch(random_log(1), Filling.PACKED))
    nothing = Jagged(batch.user[:0], torch.zeros(batch.num_impressions + 1, dtype=torch.int64))
    assert torch.equal(ranker(replace(batch, histories={"some": nothing})), ranker(batch))


def test_without_training_tables_their_gradients_are_none_and_the_rest_is_the_same() -> None:
    ranker, batch = _with_beside(tuple(CHANNELS)), _float(make_batch(random_log(1), Filling.PACKED))
    grads = []
    for train_tables in (True, False):
        ranker.zero_grad()
        logit = ranker(batch, train_tables=train_tables)
        logit.sum().backward()
        assert all((p.grad is not None) == train_tables for p in ranker.front.parameters())
        grads.append({n: p.grad for n, p in ranker.named_parameters() if n.startswith(("tower", "head"))})
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])
