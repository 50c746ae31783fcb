"""Both searches against a plain loop; an impression alone; ties; bounded memory; what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ctr_rec.errors import ConfigError
from ctr_rec.ops.jagged import buckets
from ctr_rec.ops.retrieval import Categories, Retrieved, most_recent_matching, similarity, top_k_by_similarity
from tests.ops.cross_attention.cases import offsets_of

NUM_EVENTS, ITEMS, WIDTH = 60, 25, 6
HISTORIES: dict[str, list[list[int]]] = {
    "ranges of two users": [list(range(0, e)) for e in (3, 7, 20, 20)] + [list(range(30, e)) for e in (31, 45, 60)],
    "sliding windows": [list(range(max(0, e - 9), e)) for e in range(1, 60, 3)],
    "with gaps": [[0, 2, 3], [1, 2, 9, 11], [], [40], [3, 11, 39, 40, 59]],
    "unordered impressions": [list(range(30, 44)), list(range(5)), list(range(31, 40)), [], list(range(2, 9))],
    "all empty": [[], []],
    "no impression": [],
    "single": [[7]],
}


@pytest.fixture(autouse=True)
def _small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several buckets with some padding in each, and blocks in pieces, with inputs a test can afford."""
    monkeypatch.setattr(buckets, "FREE_WASTE", 60)
    monkeypatch.setattr(buckets, "MOST_SCORES", 120)


def jagged(histories: list[list[int]]) -> tuple[Tensor, Tensor]:
    values = torch.tensor([t for one in histories for t in one], dtype=torch.int64)
    return values, offsets_of([len(one) for one in histories])


def same(got: Retrieved, want: Retrieved) -> None:
    assert got.values.equal(want.values)
    assert got.offsets.equal(want.offsets)
    torch.testing.assert_close(got.score, want.score, atol=1e-6, rtol=0)


def vectors(num: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A fourth of them zero."""
    x = torch.randn(num, WIDTH, dtype=dtype)
    x[1::4] = 0
    return x


def categories(num: int, several: bool) -> Categories:
    if not several:
        return Categories(torch.randint(0, 4, (num,)))
    lengths = torch.randint(0, 4, (num,)).tolist()
    return Categories(torch.randint(0, 9, (sum(lengths),)), offsets_of(lengths))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("way", ["event", "item", "item by a table"])
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("name", HISTORIES)
def test_similarity_is_the_reference(
    name: str, k: int, way: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_item = way != "event"
    monkeypatch.setattr(similarity, "_GATHER", NUM_EVENTS * ITEMS if way == "item by a table" else -1)
    item = torch.randint(0, ITEMS, (NUM_EVENTS,)) if by_item else None
    query, key = vectors(len(HISTORIES[name]), dtype), vectors(ITEMS if by_item else NUM_EVENTS, dtype)
    got, want = (
        top_k_by_similarity(query, key, item, *jagged(HISTORIES[name]), k, backend=b) for b in ("auto", "reference")
    )
    same(got, want)


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("name", HISTORIES)
def test_matching_is_the_reference(name: str, k: int, several: bool) -> None:
    wanted, offered = categories(len(HISTORIES[name]), several), categories(NUM_EVENTS, not several or k == 1)
    got, want = (most_recent_matching(wanted, offered, *jagged(HISTORIES[name]), k, b) for b in ("auto", "reference"))
    same(got, want)


def test_of_equals_the_newer_is_taken() -> None:
    """Vectors that differ in length alone are equally near, whatever the shapes are; oldest first all the same."""
    key = torch.randn(1, 384) * 2.0 ** torch.randint(-3, 4, (NUM_EVENTS, 1))
    histories = [list(range(e)) for e in (60, 59, 33, 4, 2)]
    found = top_k_by_similarity(key[:5], key, None, *jagged(histories), 3)
    assert found.values.tolist() == [57, 58, 59, 56, 57, 58, 30, 31, 32, 1, 2, 3, 0, 1]
    assert found.score.eq(1).all()


@pytest.mark.parametrize("name", ["ranges of two users", "sliding windows", "with gaps", "unordered impressions"])
def test_an_impression_is_judged_by_itself(name: str) -> None:
    """To the bit: alone in the batch, with other candidates beside it, and with hidden events replaced."""
    histories = HISTORIES[name]
    item, offered = torch.randint(0, ITEMS, (NUM_EVENTS,)), categories(NUM_EVENTS, True)
    query, key = vectors(len(histories)), vectors(ITEMS)
    among = top_k_by_similarity(query, key, item, *jagged(histories), 4)
    wanted = categories(len(histories), True)
    matching = most_recent_matching(wanted, offered, *jagged(histories), 4)
    for n, positions in enumerate(histories):
        hidden = torch.ones(NUM_EVENTS, dtype=torch.bool)
        hidden[positions] = False
        others = torch.where(hidden, torch.randint(0, ITEMS, (NUM_EVENTS,)), item)
        alone = top_k_by_similarity(query[n : n + 1], key, others, *jagged([positions]), 4)
        mine = slice(*among.offsets[n : n + 2].tolist())
        assert alone.values.equal(among.values[mine])
        assert alone.score.equal(among.score[mine])
        low, high = bounds(wanted, n)
        one = Categories(wanted.ids[low:high], offsets_of([high - low]))
        found = most_recent_matching(one, offered, *jagged([positions]), 4)
        assert found.values.equal(matching.values[slice(*matching.offsets[n : n + 2].tolist())])


def bounds(categories: Categories, n: int) -> list[int]:
    assert categories.offsets is not None
    return categories.offsets[n : n + 2].tolist()


def test_memory_is_bounded_and_one_product_serves_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    bmm = torch.bmm

    def counted(a: Any, b: Any) -> Any:
        shapes.append((a.shape[0], a.shape[1], b.shape[2]))
        return bmm(a, b)

    monkeypatch.setattr(torch, "bmm", counted)
    histories = [list(range(40 + n)) for n in range(10)]
    top_k_by_similarity(vectors(10), vectors(NUM_EVENTS), None, *jagged(histories), 4)
    assert shapes == [(1, 2, 49)] * 5


def test_a_shuffled_batch_takes_the_table_which_equals_the_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same cosines to the bit, from a table of few items or from the events of one user."""
    key, item = vectors(ITEMS), torch.randint(0, ITEMS, (NUM_EVENTS,))
    histories = [list(range(3 * n, 3 * n + 3)) for n in range(NUM_EVENTS // 3)]
    call = (vectors(len(histories)), key, item, *jagged(histories), 2)
    calls: list[str] = []
    for name in ("_by_table", "_by_view"):
        way = getattr(similarity, name)
        monkeypatch.setattr(similarity, name, lambda *a, way=way, name=name: calls.append(name) or way(*a))
    by_table = top_k_by_similarity(*call)
    monkeypatch.setattr(similarity, "_GATHER", 0)
    by_view = top_k_by_similarity(*call)
    assert calls == ["_by_table", "_by_view"]
    assert all(a.equal(b) for a, b in zip(by_table, by_view, strict=True))


def test_no_gradient() -> None:
    query, key = (torch.randn(n, 3, requires_grad=True) for n in (1, 2))
    assert not top_k_by_similarity(query, key, None, *jagged([[0, 1]]), 2).score.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_NC": torch.zeros(2, 4)}, r"must be \[N, C\] and \[M, C\] of one floating type, got: .*\(2, 4\) and"),
        ({"key_MC": torch.zeros(5, 3).double()}, "of one floating type, got: torch.float32 .* torch.float64"),
        ({"item_T": torch.tensor([5])}, r"item_T: expected rows inside \[0, 5\), got 5"),
        ({"values_P": torch.tensor([0, 1, 5])}, r"values_P: expected rows inside \[0, 5\), got 5"),
        ({"offsets_N1": torch.tensor([0, 2])}, "expected to run from 0 to 3 rows, got 0 to 2"),
        ({"offsets_N1": torch.tensor([0, 3])}, "offsets_N1 must have 3 entries for 2 impressions, got: 2"),
        ({"values_P": torch.tensor([1, 0, 3])}, "must rise inside each history, oldest first, got: 1 then 0 at 0"),
    ],
)
def test_what_does_not_belong_together_is_refused(change: dict[str, Any], message: str) -> None:
    call: dict[str, Any] = {
        "query_NC": torch.zeros(2, 3),
        "key_MC": torch.zeros(5, 3),
        "item_T": None,
        "values_P": torch.tensor([0, 2, 1]),
        "offsets_N1": torch.tensor([0, 2, 3]),
        "k": 2,
    }
    assert len(top_k_by_similarity(**call).values) == 0
    with pytest.raises(ValueError, match=message):
        top_k_by_similarity(**{**call, **change})


def test_choices_and_categories_that_are_refused() -> None:
    one, history = Categories(torch.tensor([0])), jagged([[0]])
    with pytest.raises(ConfigError, match="k must be 1 or more, got: 0; switch retrieval off"):
        most_recent_matching(one, one, *history, 0)
    with pytest.raises(ConfigError, match=r"backend must be one of .*got: 'faiss'"):
        most_recent_matching(one, one, *history, 1, "faiss")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="category_N must have ids from 0, got: -1; leave it out"):
        most_recent_matching(Categories(torch.tensor([-1])), one, *history, 1)
    with pytest.raises(ValueError, match=r"category_T must have a vector of int ids, got: torch\.float32"):
        most_recent_matching(one, Categories(torch.tensor([0.0])), *history, 1)
    with pytest.raises(ValueError, match="expected to run from 0 to 1 rows, got 0 to 2"):
        most_recent_matching(one, Categories(torch.tensor([0]), torch.tensor([0, 2])), *history, 1)
