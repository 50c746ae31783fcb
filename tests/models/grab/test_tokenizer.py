"""What is in which token: the action in partial tokens alone, static fields in full tokens alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.embedding import Embedded
from ctr_rec.models.grab.config import ActionRole
from ctr_rec.models.grab.tokenizer import GateMLP, Tokenizer
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.tower import Filling
from tests.models.streams import SPEC, look_up, make_batch, random_log


def _tokens(tokenizer: Tokenizer, embedded: Embedded, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return tokenizer.partial_tokens(embedded, batch), tokenizer.full_tokens(embedded, batch)


def test_a_token_is_mlp_times_gate() -> None:
    module = GateMLP(3, 4).double()
    first = torch.randn(5, 7, dtype=torch.float64)
    hidden, gate = first[:, :3], first[:, 3:]
    want = (torch.nn.functional.gelu(hidden) @ module.out.weight.t() + module.out.bias) * torch.sigmoid(gate)
    want = torch.nn.functional.layer_norm(want, (4,), module.norm.weight, module.norm.bias)
    torch.testing.assert_close(module(first), want)


@pytest.mark.parametrize("role", list(ActionRole))
def test_the_action_is_in_partial_tokens_where_its_role_says_and_never_in_full_ones(role: ActionRole) -> None:
    batch = make_batch(random_log(seed=1), Filling.PACKED)
    tokenizer = Tokenizer(SPEC, GRABConfig(width=6, action=role)).double().eval()
    embedded = look_up(batch)
    partial, full = _tokens(tokenizer, embedded, batch)
    flipped = replace(batch, event_action=(batch.event_action + 1) % SPEC.num_actions)
    moved, same = _tokens(tokenizer, embedded, flipped)
    says = role in (ActionRole.TOKEN, ActionRole.BOTH)
    assert ((partial != moved).any(-1)).all() == says
    assert torch.equal(full, same)


def test_static_fields_are_in_full_tokens_alone() -> None:
    batch = make_batch(random_log(seed=1), Filling.PACKED)
    tokenizer = Tokenizer(SPEC, GRABConfig(width=6)).double().eval()
    embedded = look_up(batch)
    partial, full = _tokens(tokenizer, embedded, batch)
    others = replace(embedded, users={name: value + 1 for name, value in embedded.users.items()})
    partial_after, full_after = _tokens(tokenizer, others, batch)
    assert torch.equal(partial, partial_after)
    assert (full != full_after).any(-1).all()
    assert (partial.shape, full.shape) == ((batch.num_events, 6), (batch.num_impressions, 6))
