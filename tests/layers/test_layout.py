"""Names of columns: roles, sizes and paths."""

from __future__ import annotations

from ctr_rec.layers.layout import named, size, within

ITEM = (("item.film", 4), ("item.year", 1))


def test_roles_keep_inputs_apart() -> None:
    assert named("candidate", ITEM) == (("candidate/item.film", 4), ("candidate/item.year", 1))
    assert size(named("candidate", ITEM)) == size(ITEM) == 5
    assert size(()) == 0


def test_a_parent_adds_its_name() -> None:
    assert within("mlp", {"layers.0.weight": (None, ITEM)}) == {"mlp.layers.0.weight": (None, ITEM)}
