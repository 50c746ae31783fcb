"""Row maps of every kind of ids against the same question answered id by id, over shuffled vocabularies and sizes."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_rec.checkpoint.warm_start.config import Buckets, HashedIds, TableWarmStart
from ctr_rec.checkpoint.warm_start.id_rule import IdRule
from ctr_rec.checkpoint.warm_start.id_stream import map_stream, vocabulary_stream
from ctr_rec.checkpoint.warm_start.row_map import RowMap, row_map
from ctr_rec.checkpoint.warm_start.straight import ids_of_rows, source_rows
from ctr_rec.checkpoint.warm_start.target import TargetTable, target_ids
from ctr_rec.errors import CheckpointError
from ctr_rec.schema.hashing import hashed_rows
from tests.checkpoint.warm_start.cases import write_vocabulary

IDS = [f"i{n}" + "-and-some-more-text" * (n % 2) for n in range(400)]


def ours(folder: Path, random: np.random.Generator, hash_rows: int | None = None) -> TargetTable:
    """250 of the ids, the rarest ten in row 0 of a vocabulary."""
    ids = [IDS[i] for i in random.permutation(400)[:250]]
    rows = hashed_rows(ids, hash_rows).tolist() if hash_rows else [*range(1, 241), *[0] * 10]
    write_vocabulary(folder / "ours.parquet", ids, rows, range(300, 50, -1))
    return TargetTable("item", (hash_rows or 240) + 1, 4, 0.1, hash_rows, folder / "ours.parquet")


def vocabulary(folder: Path, random: np.random.Generator, counted: bool = True) -> IdRule:
    """300 of the ids in rows 1 to 290 of the source, in an order of its own; ten share row 0."""
    ids = [IDS[i] for i in random.permutation(400)[:300]]
    rows = np.concatenate([random.permutation(np.arange(1, 291)), np.zeros(10, int)])
    counts = random.integers(0, 1000, 300).tolist() if counted else None
    path = write_vocabulary(folder / "theirs.parquet", ids, rows.tolist(), counts)
    return IdRule("a vocabulary", vocabulary_stream(path, 0, 291), no_ids=(0,), vocabulary=path)


def write_map(path: Path, **columns: list) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def rule_of(kind: str, folder: Path, random: np.random.Generator) -> IdRule:
    hashed = HashedIds(rows=97, first=1)
    if kind == "hash":
        return IdRule("the hash", hashed=hashed, no_ids=(0,))
    if kind == "vocabulary":
        return vocabulary(folder, random)
    ids = [IDS[i] for i in random.permutation(400)[:200]]
    if kind == "map to rows":
        path = write_map(folder / "map.parquet", id=ids, source_row=random.integers(0, 60, 200).tolist())
        return IdRule("a map", mapped=map_stream(path, 60))
    theirs = [IDS[i] for i in random.integers(0, 400, 200)]
    path = write_map(folder / "map.parquet", id=ids, source_id=theirs)
    if kind == "map to a hash":
        return IdRule("a map", hashed=hashed, mapped=map_stream(path, 98), no_ids=(0,))
    below = vocabulary(folder, random)
    return IdRule("a map", below.stream, mapped=map_stream(path, 291), no_ids=(0,))


def whole(
    table: TargetTable, rule: IdRule, pieces: int = 1, carry: bool = False, **settings: object
) -> dict[int, list[int]]:
    """Source rows of each of our rows, put together from as many ranges as there would be ranks."""
    found: dict[int, list[int]] = defaultdict(list)
    cuts = np.linspace(0, table.rows, pieces + 1).astype(int).tolist()
    for low, high in pairwise(cuts):
        part = part_of(table, rule, low, high, carry, **settings)
        assert np.all(np.diff(part.source_P) >= 0)
        for target, source in zip(part.target_P.tolist(), part.source_P.tolist(), strict=True):
            assert low <= target < high
            found[target].append(source)
        if part.sources_P is not None:
            assert [len(found[t]) for t in part.target_P.tolist()] == part.sources_P.tolist()
    return {target: sorted(sources) for target, sources in found.items()}


def part_of(table: TargetTable, rule: IdRule, low: int, high: int, carry: bool = False, **settings: object) -> RowMap:
    return row_map(table, target_ids(table, low, high), rule, TableWarmStart.model_validate(settings), carry)


def by_hand(table: TargetTable, rule: IdRule) -> dict[int, list[int]]:
    ids = ids_of_rows(table, range(table.rows))
    theirs = source_rows([i for each in ids.values() for i in each], rule)
    rows = {row: set().union(*(theirs.get(i, set()) for i in each)) for row, each in ids.items()}
    return {row: sorted(found) for row, found in rows.items() if found}


KINDS = ["vocabulary", "hash", "map to rows", "map to ids", "map to a hash"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hash_rows", [None, 60, 500])
def test_each_row_takes_what_its_ids_lead_to(tmp_path: Path, kind: str, hash_rows: int | None, seed: int) -> None:
    random = np.random.default_rng([seed, 5])
    table, rule = ours(tmp_path, random, hash_rows), rule_of(kind, tmp_path, random)
    expected = by_hand(table, rule)
    assert len(expected) > 20
    for pieces in (1, 2, 4):
        assert whole(table, rule, pieces, many_to_one="mean") == expected
    if hash_rows is None:
        assert whole(table, rule) == expected
    elif hash_rows == 60:
        with pytest.raises(CheckpointError, match=r"table item: \d+ of its rows would take several source rows, row"):
            whole(table, rule)


def test_the_most_frequent_id_of_a_row_wins_by_the_sources_counts(tmp_path: Path) -> None:
    ids = ["a", "b", "c", "d"]
    write_vocabulary(tmp_path / "ours.parquet", ids, [1, 1, 1, 2], [100, 1, 1, 1])
    table = TargetTable("item", 3, 4, 0.1, 2, tmp_path / "ours.parquet")
    path = write_vocabulary(tmp_path / "t.parquet", ids, [9, 8, 7, 6], [5, 50, 50, 0])
    counted = IdRule("", vocabulary_stream(path, None, 10))
    # b and c are equal: the lower row.
    assert whole(table, counted, many_to_one="most_frequent") == {1: [7], 2: [6]}
    path = write_vocabulary(tmp_path / "u.parquet", ids, [9, 8, 7, 6])
    assert whole(table, IdRule("", vocabulary_stream(path, None, 10)), many_to_one="most_frequent") == {1: [9], 2: [6]}


def test_two_of_our_ids_that_share_a_source_row_are_one_source(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "ours.parquet", ["a", "b"], [1, 1], [1, 1])
    table = TargetTable("item", 3, 4, 0.1, 2, tmp_path / "ours.parquet")
    path = write_map(tmp_path / "map.parquet", id=["a", "b"], source_row=[4, 4])
    assert whole(table, IdRule("", mapped=map_stream(path, 5))) == {1: [4]}


@pytest.mark.parametrize(("theirs", "exact"), [(20, True), (500, True), (7, False)])
def test_a_hash_whose_size_divides_ours_needs_no_ids(tmp_path: Path, theirs: int, exact: bool) -> None:
    random = np.random.default_rng(0)
    table = ours(tmp_path, random, 500)
    rule = IdRule("", hashed=HashedIds(rows=theirs, first=1), no_ids=(0,))
    found = whole(table, rule, pieces=3, many_to_one="mean")
    expected = by_hand(table, rule)
    assert {row: found[row] for row in expected} == expected
    # Rows of which the log knows no id yet are right, too.
    assert (len(found) == 500) == exact
    if exact:
        assert found == {row: [1 + (row - 1) % theirs] for row in range(1, 501)}


def test_row_zero_is_carried_from_row_zero_by_the_range_that_holds_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table, rule = ours(tmp_path, random), rule_of("vocabulary", tmp_path, random)
    plain, carried = whole(table, rule, 2), whole(table, rule, 2, carry=True)
    assert 0 not in plain
    assert carried == {0: [0], **plain}


def test_an_equal_vocabulary_needs_no_search_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    table = ours(tmp_path, random)
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(table.vocabulary.read_bytes())
    rule = IdRule("", vocabulary_stream(copy, 0, 241), no_ids=(0,), vocabulary=copy)
    searched = whole(table, IdRule("", rule.stream, no_ids=(0,)), 2)
    monkeypatch.setattr("ctr_rec.checkpoint.warm_start.row_map.IdIndex", None)
    assert whole(table, rule, 2) == searched == {row: [row] for row in range(1, 241)}


def test_new_ids_go_to_the_sources_buckets(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table, rule = ours(tmp_path, random), rule_of("vocabulary", tmp_path, random)
    plain = whole(table, rule)
    found = whole(table, rule, 2, new_rows="bucket", buckets=Buckets(first=300, rows=11))
    assert len(found) == 240
    ids = ids_of_rows(table, range(241))
    for row, sources in found.items():
        assert sources == (plain[row] if row in plain else hashed_rows(ids[row], 11, 300).tolist())
    part = part_of(table, rule, 0, 241, new_rows="bucket", buckets=Buckets(first=300, rows=11))
    assert part.counts.rows_matched == len(plain)
    assert part.counts.rows_new == 240 - len(plain)
    assert len(part.matched_sources()) == len(plain)


def test_counts_add_up_over_ranges(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table, rule = ours(tmp_path, random), rule_of("vocabulary", tmp_path, random)
    one = part_of(table, rule, 0, 241).counts
    two = [part_of(table, rule, low, high).counts for low, high in ((0, 100), (100, 241))]
    assert list(one) == [a + b for a, b in zip(*two, strict=True)]
    assert one.rows_matched + one.rows_new == 240
    assert one.seen_matched + one.seen_new + one.seen_unknown == sum(range(300, 50, -1))
    assert one.seen_unknown == sum(range(60, 50, -1))


@pytest.mark.parametrize("first", [0, 150])
def test_an_id_that_stands_twice_in_a_source_is_named(tmp_path: Path, first: int) -> None:
    random = np.random.default_rng(0)
    table = ours(tmp_path, random)
    double = ids_of_rows(table, [first + 3])[first + 3][0]
    path = write_vocabulary(tmp_path / "t.parquet", ["x", double, "y", double], [1, 2, 3, 4])
    with pytest.raises(CheckpointError, match=rf"t.parquet: id '{double}' occurs 2 times, with rows 2 and 4; keep one"):
        whole(table, IdRule("", vocabulary_stream(path, None, 5)), pieces=2)
