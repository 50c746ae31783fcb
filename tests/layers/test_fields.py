"""Joining the features of a level: order, widths, numbers and vectors."""

from __future__ import annotations

import torch

from ctr_rec.batch.batch import Level
from ctr_rec.layers.fields import feature_width, join, layout, width
from ctr_rec.layers.layout import size
from ctr_rec.schema.log import Feature, Kind, Side
from tests.models.streams import SPEC

CONTENT = Feature(name="content", kind=Kind.VECTOR, side=Side.ITEM, dim=3)


def test_widths() -> None:
    assert [feature_width(SPEC, f) for f in SPEC.item] == [4, 4, 1]
    assert feature_width(SPEC, CONTENT) == 3
    assert width(SPEC, (*SPEC.item, CONTENT), SPEC.counters) == 4 + 4 + 1 + 3 + 2
    assert width(SPEC, ()) == 0


def test_features_in_declared_order_then_counters() -> None:
    item, genres = torch.randn(2, 4), torch.randn(2, 4)
    numbers = {"year": torch.tensor([0.5, -0.5]), "hits": torch.tensor([7.0, 8.0])}
    level = Level(ids={}, numbers=numbers, vectors={"content": torch.randn(2, 3)})
    got = join((*SPEC.item, CONTENT), {"genres": genres, "item": item}, level, 2, ("hits",))
    expected = [item, genres, numbers["year"][:, None], level.vectors["content"], numbers["hits"][:, None]]
    assert torch.equal(got, torch.cat(expected, -1))


def test_a_layout_names_what_join_puts_where() -> None:
    found = layout(SPEC, "item", (*SPEC.item, CONTENT), ("hits",))
    assert found == (("item.item", 4), ("item.genres", 4), ("item.year", 1), ("item.content", 3), ("item.hits", 1))
    assert size(found) == width(SPEC, (*SPEC.item, CONTENT), ("hits",))


def test_no_feature_has_width_zero() -> None:
    assert join((), {}, Level({}, {}, {}), 3).shape == (3, 0)
