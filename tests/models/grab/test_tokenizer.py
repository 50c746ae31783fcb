"""What is in which token: the action in partial tokens alone, static fields in full tokens alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.embedding import Embedded
from ctr_rec.models.grab.config import ActionRole, Views
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


@pytest.mark.parametrize("views", list(Views))
@pytest.mark.parametrize("role", list(ActionRole))
def test_the_action_is_in_events_where_its_role_says_and_never_in_candidates(role: ActionRole, views: Views) -> None:
    batch = make_batch(random_log(seed=1), Filling.PACKED)
    tokenizer = Tokenizer(SPEC, GRABConfig(width=6, action=role, views=views)).double().eval()
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


def test_partial_only_asks_with_what_a_history_token_has_without_its_action() -> None:
    """An impression's query is the partial token of its own event, where action and later fields are not yet known."""
    log = random_log(seed=1)
    batch = make_batch(log, Filling.PACKED)
    tokenizer = Tokenizer(SPEC, GRABConfig(width=6, views=Views.PARTIAL)).double().eval()
    assert tokenizer.events.action is not None
    torch.nn.init.zeros_(tokenizer.events.action.weight)
    unknown = replace(batch, events=replace(batch.events, numbers={"dwell": 0 * batch.events.numbers["dwell"]}))
    partial, query = _tokens(tokenizer, look_up(batch), unknown)
    own = batch.impression_event
    assert (own >= 0).all()
    torch.testing.assert_close(query, partial[own], rtol=0, atol=1e-12)


def test_partial_only_reads_no_static_field() -> None:
    batch = make_batch(random_log(seed=1), Filling.PACKED)
    tokenizer = Tokenizer(SPEC, GRABConfig(width=6, views=Views.PARTIAL)).double().eval()
    embedded = look_up(batch)
    numbers = {name: value + 1 for name, value in batch.impressions.numbers.items()}
    others = replace(batch, impressions=replace(batch.impressions, numbers=numbers), event_time=batch.event_time + 9999)
    profiles = replace(embedded, users={name: value + 1 for name, value in embedded.users.items()})
    for before, after in zip(_tokens(tokenizer, embedded, batch), _tokens(tokenizer, profiles, others), strict=True):
        assert torch.equal(before, after)


def test_full_only_makes_keys_from_all_that_a_query_holds_and_a_batch_knows_of_events() -> None:
    """Without action, later fields, counters and gap, an event's key is the query of its impression."""
    batch = make_batch(random_log(seed=1), Filling.PACKED)
    tokenizer = Tokenizer(SPEC, GRABConfig(width=6, views=Views.FULL)).double().eval()
    assert tokenizer.context is not None
    assert tokenizer.context.time is not None
    assert tokenizer.events.action is not None
    for weight in (tokenizer.context.time.gap.weight, tokenizer.events.action.weight):
        torch.nn.init.zeros_(weight)
    zeros = {name: 0 * value for name, value in batch.impressions.numbers.items()}
    own = batch.impression_event
    bare = replace(
        batch,
        events=replace(batch.events, numbers={"dwell": 0 * batch.events.numbers["dwell"]}),
        impressions=replace(batch.impressions, numbers=zeros),
        impression_time=batch.event_time[own],
    )
    embedded = look_up(batch)
    keys, queries = _tokens(tokenizer, embedded, bare)
    torch.testing.assert_close(queries, keys[own], rtol=0, atol=1e-12)
    profiles = replace(embedded, users={name: value + 1 for name, value in embedded.users.items()})
    assert (_tokens(tokenizer, profiles, bare)[0] != keys).any(-1).all()
    hour_later = replace(bare, event_time=bare.event_time + 3600)
    assert (_tokens(tokenizer, embedded, hour_later)[0] != keys).any(-1).all()
    later = _tokens(tokenizer, embedded, replace(bare, events=batch.events))[0]
    assert (later != keys).any(-1).all()


@pytest.mark.parametrize(("views", "items", "contexts", "projected"), [("both", 2, 1, 1), ("partial", 1, 0, 2)])
def test_flops_count_each_map_once(views: str, items: int, contexts: int, projected: int) -> None:
    batch = make_batch(random_log(seed=1), Filling.PACKED)
    tokenizer = Tokenizer(SPEC, GRABConfig(width=6, views=Views(views)))
    t, n, m = batch.num_events, batch.num_impressions, batch.item.shape[0]
    context = tokenizer.context.width if tokenizer.context is not None else 0
    fields = t if projected == 1 else t + n
    want = items * m * 2 * 9 * 12 + fields * 2 * 5 * 12 + contexts * n * 2 * context * 12 + (t + n) * 2 * 36
    assert tokenizer.flops(batch) == want


def test_flops_of_full_only() -> None:
    batch = make_batch(random_log(seed=1), Filling.PACKED)
    tokenizer = Tokenizer(SPEC, GRABConfig(width=6, views=Views.FULL))
    t, n, m = batch.num_events, batch.num_impressions, batch.item.shape[0]
    assert tokenizer.context is not None
    want = m * 2 * 9 * 12 + t * 2 * 1 * 12 + (t + n) * (2 * tokenizer.context.width * 12 + 2 * 36)
    assert tokenizer.flops(batch) == want


def test_a_shared_tokenizer_makes_one_token_of_an_item_whichever_view_it_is_in() -> None:
    """Without action, context and event fields both views hold the item alone."""
    off = ContextSettings(use_profile=False, use_request=False, use_counters=False, use_time=False)
    config = GRABConfig(width=6, action=ActionRole.NEITHER, context=off, shared_tokenizer=True)
    spec = SPEC.model_copy(update={"event": ()})
    batch = make_batch(random_log(seed=1), Filling.PACKED, spec)
    shared = Tokenizer(spec, config).double().eval()
    partial, full = _tokens(shared, look_up(batch), batch)
    assert torch.equal(partial[batch.impression_event], full)
    apart = Tokenizer(spec, config.model_copy(update={"shared_tokenizer": False})).double().eval()
    partial, full = _tokens(apart, look_up(batch), batch)
    assert (partial[batch.impression_event] != full).any(-1).all()
    count = [sum(p.numel() for p in each.parameters()) for each in (shared, apart)]
    assert count[0] < count[1]


def test_action_embeddings_begin_with_the_deviation_asked_for() -> None:
    many = SPEC.model_copy(update={"num_actions": 40})
    for std in (0.02, 0.5):
        action = Tokenizer(many, GRABConfig(width=32, action_std=std)).events.action
        assert action is not None
        assert action.weight.std().item() == pytest.approx(std, rel=0.1)
