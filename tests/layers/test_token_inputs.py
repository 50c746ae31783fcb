"""What the models of EST's table read: which tokens there are, what they are made of, who shares them, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ctr_rec.errors import ConfigError
from ctr_rec.layers.layout import size
from ctr_rec.layers.retrieval import RetrievalSettings, Search
from ctr_rec.layers.simtier import tier_counts
from ctr_rec.layers.token_inputs import TokenInputs, Tokens, TokenSettings
from ctr_rec.models.tower import Filling
from ctr_rec.schema.log import Kind, Side
from tests.models.streams import CHANNELS, CONTENT, Log, feature, look_up, make_batch, random_log

SEARCH = RetrievalSettings(channel="liked", most=1)
FULL = TokenSettings(width=6, recent="all", content="content", retrieval=SEARCH, simtier=True)
NAMES = (
    *("candidate/item", "candidate/genres", "candidate/year", "request/slot"),
    *("counter/item_mean_count", "counter/item_mean_rate", "user/user", "user/age"),
    *("time/hour", "time/weekday", "time/gap"),
)


def _inputs(settings: TokenSettings = FULL) -> TokenInputs:
    torch.manual_seed(0)
    inputs = TokenInputs(CONTENT, settings, tuple(CHANNELS), "EST").double()
    for parameter in inputs.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter)
    return inputs


def _tokens(inputs: TokenInputs, log: Log) -> Tokens:
    batch = make_batch(log, Filling.POINTWISE, CONTENT)
    return inputs(look_up(batch, CONTENT), batch)


def test_tokens_by_settings() -> None:
    log = random_log(0)
    tokens = _tokens(_inputs(), log)
    assert _inputs().names == (*NAMES, "simtier")
    assert tokens.features_NLD.shape == (len(log.impressions), len(NAMES) + 1, 6)
    assert list(tokens.behaviours) == ["all", "retrieved"]
    bare = FULL.model_copy(update={"retrieval": None, "simtier": False})
    assert _inputs(bare).names == NAMES
    assert list(_tokens(_inputs(bare), log).behaviours) == ["all"]
    side = bare.model_copy(update={"side_information": True})
    assert _inputs(side).names == (*NAMES[:3], "candidate/content", *NAMES[3:])
    assert ("item.content", 3) in (_inputs(side).axes()["behaviours.all.first.weight"][1] or ())
    assert ("item.content", 3) not in (_inputs(bare).axes()["behaviours.all.first.weight"][1] or ())
    by_content_alone = bare.model_copy(update={"content": None, "retrieval": SEARCH})
    assert _inputs(by_content_alone).names == NAMES


def test_retrieved_tokens_have_an_mlp_of_their_own_and_know_order_and_age() -> None:
    log = random_log(0)
    inputs = _inputs()
    batch = make_batch(log, Filling.POINTWISE, CONTENT)
    embedded = look_up(batch, CONTENT)
    found = inputs(embedded, batch).behaviours["retrieved"]
    sequences = found.sequences
    assert sequences.segment_N is None
    tokens = inputs.behaviours["retrieved"]
    parts = [embedded.items["item"], embedded.items["genres"], batch.items.numbers["year"].unsqueeze(1)]
    events = inputs.events(torch.cat(parts, 1), embedded, batch).per_event()
    checked = 0
    for n, impression in enumerate(log.impressions):
        a, b = sequences.offsets_S1[n : n + 2].tolist()
        for place in range(a, b):
            position = int(sequences.position_P[place])
            expected = tokens.second(torch.nn.functional.silu(tokens.first(events[position])))
            age = impression.request_time - int(batch.event_time[position])
            expected = expected + tokens.order_OD[b - 1 - place] + tokens.age_AD[(1 + age).bit_length() - 1]
            torch.testing.assert_close(found.x_PD[place], expected)
            checked += 1
    assert checked > 5


def test_simtier_counts_likeness_to_recent_and_retrieved_behaviours() -> None:
    inputs = _inputs()
    batch = make_batch(random_log(0), Filling.POINTWISE, CONTENT)
    found = inputs.sequences(batch, look_up(batch, CONTENT)).sequences
    content = batch.items.vectors["content"]
    tiers = []
    for name, tier in inputs.tiers.items():
        own = found[name].of_impressions()
        impression_P = torch.repeat_interleave(own.offsets_S1.diff())
        a, b = content[batch.impression_item[impression_P]], content[batch.event_item[own.position_P]]
        r_P = ((a * b).sum(-1) * 2**20).round() / 2**20
        known = a.any(-1) & b.any(-1)
        tiers.append(tier_counts(r_P.masked_fill(~known, -torch.inf), own.offsets_S1).log1p() * tier.weight_T)
    assert inputs.tier_mlp is not None
    expected = inputs.tier_mlp(torch.cat(tiers, 1))
    torch.testing.assert_close(inputs(look_up(batch, CONTENT), batch).features_NLD[:, -1], expected)


def test_impressions_of_a_request_share_what_does_not_depend_on_the_candidate() -> None:
    """Eight candidates of one request: one recent sequence, its tokens once; retrieved ones for each."""
    log = random_log(3)
    one = max(log.impressions, key=lambda i: sum(not log.hidden(e, i) for e in log.events))
    request = replace(log, impressions=tuple(replace(one, item=item) for item in range(1, 9)))
    inputs = _inputs()
    together, alone = _tokens(inputs, request), _tokens(inputs, replace(log, impressions=(one,)))
    assert together.behaviours["all"].sequences.num_sequences == 1
    torch.testing.assert_close(together.behaviours["all"].x_PD, alone.behaviours["all"].x_PD)
    assert together.behaviours["retrieved"].sequences.num_sequences == 8
    other = replace(one, item=one.item + 1)
    changed = _tokens(inputs, replace(log, impressions=(other,)))
    torch.testing.assert_close(changed.behaviours["all"].x_PD, alone.behaviours["all"].x_PD, rtol=0, atol=0)


def test_axes_name_what_a_feature_more_makes_wider() -> None:
    inputs = _inputs()
    shapes = {name: tuple(p.shape) for name, p in inputs.named_parameters()}
    for name, axes in inputs.axes().items():
        assert [size(a) if a is not None else n for a, n in zip(axes, shapes[name], strict=True)] == [*shapes[name]]
    more = CONTENT.model_copy(update={"item": (feature("extra", Kind.NUMBER, Side.ITEM), *CONTENT.item)})
    wider = TokenInputs(more, FULL, tuple(CHANNELS), "EST")
    changed = {name for name, p in wider.named_parameters() if name in shapes and tuple(p.shape) != shapes[name]}
    assert changed == inputs.axes(tokens_meet=True).keys()
    new = {name for name, _ in wider.named_parameters() if name not in shapes}
    assert {name.rsplit(".", 2)[0] for name in new} == {"features.mlps.candidate/extra"}
    assert new <= wider.axes().keys(), "a new token begins as zeros"
    assert not new & wider.axes(tokens_meet=True).keys(), "where tokens meet, growing is refused"


def test_flops_by_hand() -> None:
    batch = make_batch(random_log(1), Filling.POINTWISE, CONTENT)
    inputs = _inputs()
    n, pairs = batch.num_impressions, len(batch.histories["liked"].values)
    recent, retrieved = inputs.sequences(batch).sequences.values()
    # An item is 4 + 4 + 1 wide; with event features every event has a vector of its own.
    behaviours = sum(len(s.position_P.unique()) for s in (recent, retrieved)) * 2 * 6 * (9 + 6)
    expected = inputs.features.flops(batch) + batch.num_events * 2 * 5 * 9 + behaviours + n * 2 * 6 * (44 + 6)
    assert inputs.flops(batch) == expected
    assert inputs.content_flops(batch) == {
        "retrieval": 2 * pairs * 3,
        "simtier": 2 * 3 * len(batch.histories["all"].values),
    }
    by_category = FULL.model_copy(
        update={"retrieval": SEARCH.model_copy(update={"by": Search.CATEGORY, "feature": "item"})}
    )
    other = _inputs(by_category)
    pairs = sum(len(of.rows_of_impressions()[0]) for of in other.sequences(batch).sequences.values())
    assert other.content_flops(batch) == {"simtier": 2 * 3 * pairs}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"recent": "last"}, r"EST reads the channel 'last', data\.channels has \['all', 'liked'\]"),
        ({"content": "year"}, r"names 'year', the log's vector features of items are \['content'\]"),
        (
            {"content": None},
            r"tower\.tokens\.simtier counts likeness of contents, .* names none",
        ),
        ({"content": None, "simtier": False, "side_information": True}, "side_information would have no effect"),
        ({"retrieval": RetrievalSettings()}, "EST retrieves from the channel 'lifelong'"),
    ],
)
def test_what_cannot_be_read_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _inputs(FULL.model_copy(update=changed))


def test_the_name_of_retrieved_behaviours_is_taken() -> None:
    settings = FULL.model_copy(update={"recent": "retrieved"})
    with pytest.raises(ConfigError, match=r"the channel 'retrieved' cannot be tower\.tokens\.recent"):
        TokenInputs(CONTENT, settings, ("retrieved", "liked"), "EST")
    TokenInputs(CONTENT, settings.model_copy(update={"retrieval": None}), ("retrieved",), "EST")


def test_content_alone_does_not_tell_candidates_apart() -> None:
    only = CONTENT.model_copy(update={"item": CONTENT.item[-1:]})
    with pytest.raises(ConfigError, match="EST needs at least one item feature besides content vectors"):
        TokenInputs(only, FULL, tuple(CHANNELS), "EST")


def test_every_parameter_receives_a_gradient() -> None:
    inputs = _inputs()
    tokens = _tokens(inputs, random_log(0))
    (tokens.features_NLD.sum() + sum(found.x_PD.sum() for found in tokens.behaviours.values())).backward()
    assert all(p.grad is not None for p in inputs.parameters())
