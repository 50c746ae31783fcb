from pathlib import Path

import numpy as np

from ctr_rec.train.seen import SeenImpressions, forget_seen_after, read_seen


def test_pairs_of_all_ranks_are_read_and_later_steps_forgotten(tmp_path: Path) -> None:
    for rank in (0, 1):
        seen = SeenImpressions(tmp_path, rank)
        seen.add(1, np.array([10 * rank, 10 * rank + 1]))
        seen.add(2, np.array([10 * rank + 2]))
        seen.close()
    assert sorted(read_seen(tmp_path)["impression"]) == [0, 1, 2, 10, 11, 12]
    forget_seen_after(tmp_path, step=1)
    assert sorted(read_seen(tmp_path)["impression"]) == [0, 1, 10, 11]


def test_a_pair_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    seen = SeenImpressions(tmp_path, 0)
    seen.add(1, np.array([5, 6]))
    seen.close()
    path = tmp_path / "rank-00000.bin"
    path.write_bytes(path.read_bytes()[:-3])
    assert read_seen(tmp_path)["impression"].tolist() == [5]


def test_nothing_recorded_is_empty(tmp_path: Path) -> None:
    assert len(read_seen(tmp_path)) == 0
