"""Neighbours within windows of a stream against a plain loop; nothing behind a window shows; what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctr_rec.errors import ConfigError
from ctr_rec.ops.content_neighbours import Neighbours, neighbours, window_neighbours, windows
from tests.ops.cross_attention.cases import offsets_of


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_BLOCK", 5)


def _windows(lengths: list[int], window: int, ties: int = 1) -> tuple[Tensor, Tensor]:
    """What events of users of these lengths see: themselves, their ties and what came before, `window` at most."""
    low, high, start = [], [], 0
    for length in lengths:
        for place in range(length):
            end = min(length, place - place % ties + ties)
            low.append(start + max(0, end - window))
            high.append(start + end)
        start += length
    return torch.tensor(low, dtype=torch.int64), torch.tensor(high, dtype=torch.int64)


def _content(rows: int) -> Tensor:
    """A third of the items have no content."""
    content = torch.randn(rows, 6)
    content[::3] = 0
    return content


def _pairs(found: Neighbours) -> list[set[tuple[int, float]]]:
    """Of each event its neighbours and their weights, without the filling."""
    rows = zip(found.index_PK.tolist(), found.weight_PK.tolist(), strict=True)
    return [{(i, round(w, 5)) for i, w in zip(*row, strict=True) if w != 0} for row in rows]


LENGTHS = {
    "odd": [3, 0, 1, 7, 2],
    "single": [1],
    "a block": [5],
    "long": [43, 5],
    "many": [i * 7 % 23 for i in range(12)],
}


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("window", [1, 6, 100])
@pytest.mark.parametrize("ties", [1, 3])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_is_the_reference(lengths: list[int], ties: int, window: int, k: int) -> None:
    content, (low, high) = _content(9), _windows(lengths, window, ties)
    item = torch.randint(0, 9, (sum(lengths),))
    got, want = (window_neighbours(content, item, low, high, k, b) for b in ("auto", "reference"))
    assert got.index_PK.shape == got.weight_PK.shape == (sum(lengths), k)
    assert _pairs(got) == _pairs(want)
    filling = got.weight_PK == 0
    own = torch.arange(sum(lengths))[:, None].expand_as(filling)
    assert got.index_PK[filling].equal(own[filling])


def test_of_whole_sequences_it_is_neighbours() -> None:
    lengths = [4, 0, 9, 1]
    offsets = offsets_of(lengths)
    segment = torch.arange(4).repeat_interleave(torch.tensor(lengths))
    content, item = _content(9), torch.randint(0, 9, (14,))
    got = window_neighbours(content, item, offsets[segment], offsets[segment + 1], 3)
    assert _pairs(got) == _pairs(neighbours(content, item, offsets, 3))
    assert any(len(row) == 3 for row in _pairs(got))


def test_what_lies_outside_a_window_does_not_show() -> None:
    """To the bit, whatever lies before and behind, not a number included."""
    (low, high), item = _windows([40], 7), torch.randint(0, 9, (40,))
    content = torch.cat([torch.randn(9, 6), torch.full((1, 6), torch.nan)])
    base = window_neighbours(content, item, low, high, 3)
    event = 20
    item[: event - 6] = item[event + 1 :] = 9
    other = window_neighbours(content, item, low, high, 3)
    assert other.index_PK[event].equal(base.index_PK[event])
    assert other.weight_PK[event].equal(base.weight_PK[event])
    assert set(base.index_PK[event].tolist()) <= set(range(event - 6, event + 1))


def test_of_equals_the_later_is_taken() -> None:
    low, high = _windows([12], 6)
    found = window_neighbours(torch.ones(1, 6), torch.zeros(12, dtype=torch.int64), low, high, 2)
    assert found.index_PK[1:].tolist() == [[t - 1, t] for t in range(1, 12)]


def test_no_event() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert window_neighbours(torch.ones(1, 6), none, none, none, 2).index_PK.shape == (0, 2)


def test_what_does_not_belong_together_is_refused() -> None:
    content, item, (low, high) = torch.randn(9, 6), torch.zeros(4, dtype=torch.int64), _windows([4], 3)
    with pytest.raises(ValueError, match="one entry for each of 4 events"):
        window_neighbours(content, item, low[1:], high, 2)
    for wrong in ((low.flip(0), high), (low, high.flip(0)), (low - 1, high), (low, high + 1), (high + 0, low + 0)):
        with pytest.raises(ValueError, match="never fall"):
            window_neighbours(content, item, *wrong, 2)
    with pytest.raises(ConfigError, match="k must be 1 or more"):
        window_neighbours(content, item, low, high, 0)
    with pytest.raises(ValueError, match=r"shape \[M, C\]"):
        window_neighbours(content[0], item, low, high, 2)
    with pytest.raises(ValueError, match="item_P"):
        window_neighbours(content, item + 9, low, high, 2)
    with pytest.raises(ConfigError, match="blocked"):
        window_neighbours(content, item, low, high, 2, "bucketed")  # type: ignore[arg-type]
