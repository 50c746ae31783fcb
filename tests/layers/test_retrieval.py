"""What a candidate retrieves, against a plain loop over events; bounds, ties, the unknown, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from ctr_rec.batch.batch import Batch, Ids
from ctr_rec.errors import ConfigError
from ctr_rec.layers import retrieval
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.retrieval import RetrievalSettings, Search, best, check_retrieval, retrieve
from ctr_rec.models.tower import Filling
from tests.models.streams import CHANNELS, CONTENT, look_up, make_batch, random_log

FEATURES = {Search.CONTENT: "content", Search.ID: "item", Search.CATEGORY: "genres"}


def _settings(by: Search, most: int = 2, feature: str | None = None) -> RetrievalSettings:
    return RetrievalSettings(channel="all", most=most, by=by, feature=feature or FEATURES[by])


def _values(batch: Batch, feature: str, item: int) -> set[int]:
    """Known rows of an item's categories."""
    ids = batch.items.ids[feature]
    bounds = (item, item + 1) if ids.offsets is None else ids.offsets[item : item + 2].tolist()
    return set(batch.tables[ids.table][ids.index[bounds[0] : bounds[1]]].tolist()) - {0}


def _plain(settings: RetrievalSettings, embedded: Embedded, batch: Batch) -> list[list[int]]:
    found = []
    history = batch.histories[settings.channel]
    for n, candidate in enumerate(batch.impression_item.tolist()):
        scored = []
        for position in history.values[history.offsets[n] : history.offsets[n + 1]].tolist():
            item = int(batch.event_item[position])
            if settings.by is Search.CATEGORY:
                score = (
                    0.0
                    if _values(batch, settings.feature, candidate) & _values(batch, settings.feature, item)
                    else None
                )
            elif settings.by is Search.ID:
                pair = embedded.items[settings.feature][[candidate, item]]
                score = round(float(functional.cosine_similarity(pair[0], pair[1], dim=0)), 6)
            else:
                a, b = batch.items.vectors[settings.feature][[candidate, item]]
                score = round(float(a @ b), 6) if a.any() and b.any() else None
            if score is not None:
                scored.append((score, position))
        found.append(sorted(position for _, position in sorted(scored)[-settings.most :]))
    return found


def _lists(settings: RetrievalSettings, embedded: Embedded, batch: Batch) -> list[list[int]]:
    got = retrieve(settings, embedded, batch)
    assert got.segment_N is None
    return [part.tolist() for part in got.position_P.split(got.offsets_S1.diff().tolist())]


@pytest.mark.parametrize("by", Search)
@pytest.mark.parametrize("most", [1, 2, 3, 50])
def test_equals_a_loop_over_events(by: Search, most: int) -> None:
    seen = set()
    for seed in range(4):
        batch = make_batch(random_log(seed, delay=seed), Filling.POINTWISE, CONTENT)
        embedded = look_up(batch, CONTENT)
        expected = _plain(_settings(by, most), embedded, batch)
        assert _lists(_settings(by, most), embedded, batch) == expected
        seen |= {len(row) for row in expected}
    assert {0, most} <= seen or most == 50


def test_single_categories_and_the_unknown_one() -> None:
    batch = make_batch(random_log(1), Filling.POINTWISE, CONTENT)
    group = Ids("genre", batch.item % 4)
    batch = replace(batch, items=replace(batch.items, ids={**batch.items.ids, "group": group}))
    settings = _settings(Search.CATEGORY, feature="group")
    found = _lists(settings, look_up(batch, CONTENT), batch)
    assert found == _plain(settings, look_up(batch, CONTENT), batch)
    assert any(found)
    unknown = (group.index[batch.impression_item] == 0).nonzero().squeeze(1).tolist()
    assert unknown
    assert not any(found[n] for n in unknown)


def test_many_categories_take_several_words() -> None:
    batch = make_batch(random_log(1), Filling.POINTWISE, CONTENT)
    many = replace(batch.items.ids["genres"], index=batch.items.ids["genres"].index * 40)
    tables = {**batch.tables, "genre": torch.arange(200)}
    batch = replace(batch, tables=tables, items=replace(batch.items, ids={**batch.items.ids, "genres": many}))
    settings = _settings(Search.CATEGORY)
    embedded = Embedded({}, {}, {}, {})
    assert _lists(settings, embedded, batch) == _plain(settings, embedded, batch)


def test_of_equals_the_newest_and_nothing_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    score_P = torch.tensor([0.5, 0.5, 0.5, 0.1, -torch.inf, 0.2, -1.0, -torch.inf, -torch.inf, -torch.inf])
    offsets = torch.tensor([0, 4, 4, 7, 10])
    expected = [False, True, True, False, False, True, True, False, False, False]
    assert best(score_P, offsets, 2).tolist() == expected
    monkeypatch.setattr(retrieval, "_MOST_PADDED", 1)
    assert best(score_P, offsets, 2).tolist() == expected
    assert best(score_P[:0], torch.tensor([0]), 2).tolist() == []


def test_rounding_does_not_choose() -> None:
    score_P = torch.tensor([0.3 + 1e-8, 0.3 - 1e-8, 0.3, 0.1], dtype=torch.float64)
    assert best(score_P, torch.tensor([0, 4]), 1).tolist() == [False, False, True, False]


def test_no_gradient_reaches_what_was_compared() -> None:
    batch = make_batch(random_log(0), Filling.POINTWISE, CONTENT)
    embedded = look_up(batch, CONTENT)
    embedded.items["item"].requires_grad_()
    assert not retrieve(_settings(Search.ID), embedded, batch).position_P.requires_grad


def test_without_embeddings_as_many_are_found() -> None:
    batch = make_batch(random_log(0), Filling.POINTWISE, CONTENT)
    settings = _settings(Search.ID, 1)
    newest, found = retrieve(settings, None, batch), retrieve(settings, look_up(batch, CONTENT), batch)
    assert torch.equal(newest.offsets_S1, found.offsets_S1)
    history = batch.histories["all"]
    last = history.values[history.offsets[1:][history.lengths() > 0] - 1]
    assert torch.equal(newest.position_P, last)


def test_what_is_not_there_is_refused() -> None:
    channels = tuple(CHANNELS)
    with pytest.raises(ConfigError, match=r"EST retrieves from the channel 'lifelong', data\.channels has \['all', 'l"):
        check_retrieval(RetrievalSettings(), CONTENT, channels, "EST")
    message = (
        r"by content of the item feature 'genres', .* fit are \['content'\]; name one in the retrieval's `feature`"
    )
    with pytest.raises(ConfigError, match=message):
        check_retrieval(_settings(Search.CONTENT, feature="genres"), CONTENT, channels, "EST")
    with pytest.raises(ConfigError, match=r"by id of the item feature 'year', .* fit are \['item', 'genres'\]"):
        check_retrieval(_settings(Search.ID, feature="year"), CONTENT, channels, "EST")
    for by in Search:
        check_retrieval(_settings(by), CONTENT, channels, "EST")
