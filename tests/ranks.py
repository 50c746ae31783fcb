"""Runs a function on several gloo ranks of this machine and hands back what each returned."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctr_rec.sharding.group import open_group

# What nearly every function that runs here imports.
PRELOADED = ["torch", "torchrec", "pytest", "ctr_rec.sharding.parallelize", "ctr_rec.checkpoint.store"]


def _child(function: Callable[..., Any], rank: int, world_size: int, folder: str, args: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="localhost",
        MASTER_PORT="0",
    )
    import torch

    torch.set_num_threads(1)
    out = Path(folder)
    try:
        with open_group(device="cpu", timeout_minutes=1, init_method=f"file://{folder}/store") as group:
            result = function(group, *args)
        (out / f"result-{rank}").write_bytes(pickle.dumps(result))
    except BaseException:
        (out / f"error-{rank}").write_text(traceback.format_exc())
        raise SystemExit(1) from None


def forkserver() -> multiprocessing.context.BaseContext:
    """Ranks fork from a server that has imported torch once: a rank starts in a tenth of a second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def start_ranks(function: Callable[..., Any], world_size: int, folder: str, *args: Any) -> list[Any]:
    """Processes that call `function(group, *args)`; they meet in `folder`, which is theirs alone, and leave results."""
    context = forkserver()
    ranks = [
        context.Process(target=_child, args=(function, rank, world_size, folder, args))  # type: ignore[attr-defined]
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    return ranks


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 120) -> list[Any]:
    """Calls `function(group, *args)` on every rank; returns the results in rank order.

    The function and its arguments must be picklable (a function at the top of a test module is). A rank that raises
    ends the others, and the AssertionError raised here carries the traceback of every rank that failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranks = start_ranks(function, world_size, folder, *args)
        try:
            _wait(ranks, time.monotonic() + timeout)
        finally:
            for process in ranks:
                if process.is_alive():
                    process.kill()
                process.join()
        results = Path(folder)
        errors = [f"rank {r}:\n{p.read_text()}" for r in range(world_size) if (p := results / f"error-{r}").exists()]
        codes = [process.exitcode for process in ranks]
        if errors or any(codes):
            raise AssertionError("\n".join([f"ranks ended with {codes}", *errors]))
        return [pickle.loads((results / f"result-{r}").read_bytes()) for r in range(world_size)]


def _wait(ranks: list[Any], deadline: float) -> None:
    """Returns when all have ended, and soon after one has failed: the others may wait for it for ever."""
    while any(p.is_alive() for p in ranks) and time.monotonic() < deadline:
        if any(p.exitcode for p in ranks):
            deadline = min(deadline, time.monotonic() + 2)
        for p in ranks:
            p.join(0.05)
