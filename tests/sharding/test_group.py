from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from ctr_rec.errors import ConfigError
from ctr_rec.sharding.group import Group, group_beside, open_group, pick_device, read_place
from tests.ranks import run_ranks

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


def collectives(group: Group) -> dict[str, object]:
    rows = np.arange(group.index * 3, dtype=np.float64).reshape(-1, 3) + 10 * group.index
    mine = torch.tensor([1.0, group.index])
    return {
        "sum": group.all_reduce_sum(mine).tolist(),
        "kept": mine.tolist(),
        "any": [group.any(group.index == 1), group.any(False)],
        "objects": group.all_gather_object({"rank": group.index}),
        "broadcast": group.broadcast_object(("from", group.index)),
        "rows": group.gather_arrays(rows).tolist(),
        "flags": group.gather_arrays(np.array([group.index == 0])).tolist(),
        "none": group.gather_arrays(np.zeros(0, np.int32)).shape,
        "main": group.is_main,
    }


def test_collectives_over_two_ranks() -> None:
    first, second = run_ranks(collectives, 2)
    assert first["main"]
    assert not second["main"]
    assert first["kept"] == [1.0, 0.0]
    for result in (first, second):
        assert result["sum"] == [2.0, 1.0]
        assert result["any"] == [True, False]
        assert result["objects"] == [{"rank": 0}, {"rank": 1}]
        assert result["broadcast"] == ("from", 0)
        assert result["rows"] == [[10.0, 11.0, 12.0]]
        assert result["flags"] == [True, False]
        assert result["none"] == (0,)


def test_one_process_is_a_group_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for _ in range(2):
        with open_group("cpu") as group:
            result = collectives(group)
        assert result["sum"] == [1.0, 0.0]
        assert result["main"]
        assert group.size == 1


def test_group_closes_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="inside"), open_group("cpu"):
        raise RuntimeError("inside")
    assert not torch.distributed.is_initialized()


def uneven_dtypes(group: Group) -> None:
    group.gather_arrays(np.zeros(1, np.float32 if group.index else np.float64))


def test_arrays_of_two_dtypes_are_refused_and_the_traceback_reaches_the_caller() -> None:
    with pytest.raises(AssertionError, match="expected one dtype and width on all ranks"):
        run_ranks(uneven_dtypes, 2)


def test_arrays_of_objects_are_refused() -> None:
    with open_group("cpu") as group, pytest.raises(ValueError, match="array of numbers, got dtype object"):
        group.gather_arrays(np.array([None]))


def fail_on_rank_one(group: Group) -> None:
    if group.index == 1:
        raise KeyError("only rank one")
    group.barrier()


def test_a_failing_rank_ends_the_others() -> None:
    with pytest.raises(AssertionError, match="only rank one"):
        run_ranks(fail_on_rank_one, 2, timeout=30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": None}, "WORLD_SIZE, MASTER_ADDR, MASTER_PORT set without RANK"),
        ({"WORLD_SIZE": None, "MASTER_PORT": None}, "set without WORLD_SIZE, MASTER_PORT"),
        ({"RANK": "2"}, "RANK=2 with WORLD_SIZE=2: expected a rank below"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two': expected a whole number of at least 1"),
        ({"RANK": "-1"}, "RANK='-1': expected a whole number of at least 0"),
        ({"LOCAL_WORLD_SIZE": "4"}, "LOCAL_WORLD_SIZE=4, WORLD_SIZE=2"),
        ({"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "1"}, "expected LOCAL_RANK < LOCAL_WORLD_SIZE"),
    ],
)
def test_contradicting_launch_variables(change: dict[str, str | None], message: str) -> None:
    merged = {**TORCHRUN, **change}
    environment = {k: v for k, v in merged.items() if v is not None}
    with pytest.raises(ConfigError, match=message):
        read_place(environment)


def test_more_processes_than_gpus() -> None:
    with pytest.raises(ConfigError, match=r"2 processes on this host, which has 1 GPU.*nproc-per-node to 1"):
        read_place(TORCHRUN, gpus=1)


def test_place_without_and_with_a_launcher() -> None:
    assert read_place({}).size == 1
    assert read_place({"MASTER_ADDR": "left over"}).size == 1
    place = read_place({**TORCHRUN, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"})
    assert (place.rank, place.size, place.local_rank, place.local_size) == (1, 2, 0, 1)


def test_devices() -> None:
    assert pick_device("cpu", 0).type == "cpu"
    with pytest.raises(ConfigError, match="expected auto, cpu or cuda"):
        pick_device("tpu", 0)
    if not torch.cuda.is_available():
        assert pick_device("auto", 0).type == "cpu"
        with pytest.raises(ConfigError, match="no CUDA device"):
            pick_device("cuda", 0)


def _beside(group: Group) -> tuple[list[int], tuple[bool, ...], bool]:
    """Collectives of a thread and of the main one, in no order."""
    beside, found = group_beside(group), []
    thread = threading.Thread(target=lambda: found.extend(beside.all_gather_object(group.index * 10)))
    if group.index == 0:
        thread.start()
    answers = group.any_of(group.index == 1, False, True)
    if group.index == 1:
        thread.start()
    thread.join(30)
    return found, answers, beside.backend == "gloo"


def test_a_group_beside_does_not_mix_with_the_first() -> None:
    assert run_ranks(_beside, 2) == [([0, 10], (True, False, True), True)] * 2


def test_a_lone_rank_has_a_group_beside_too() -> None:
    with open_group("cpu") as group:
        assert _beside(group)[1] == (False, False, True)
        assert group_beside(group).all_gather_object("x") == ["x"]
