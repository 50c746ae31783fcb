"""What every test gets: the same random start, fresh memory filled with NaN, and a counted reason for a GPU skip."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
POISONED_ROOMS = ("ops", "layers", "models", "sharding", "train", "serve")
FRESH = ("empty", "empty_like", "empty_strided")


@pytest.fixture(autouse=True)
def _same_start(request: pytest.FixtureRequest) -> None:
    """Seeds the global generators, torch's too where the test loaded torch."""
    random.seed(0)
    np.random.seed(0)
    if _room(request.path) in POISONED_ROOMS:
        import torch

        torch.manual_seed(0)


def _room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts if path.is_relative_to(ROOT) else ()
    return parts[1] if len(parts) > 2 else ""


@pytest.fixture(autouse=True)
def _poison(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fills memory that Python code asks for fresh with NaN, so that reading it before writing it is seen.

    Integers get a value that no index survives. What C++ allocates on its own is out of reach.
    """
    if _room(request.path) not in POISONED_ROOMS:
        yield
        return
    import torch

    for name in FRESH:
        monkeypatch.setattr(torch, name, _filled(getattr(torch, name)))
    for name in ("new_empty", "new_empty_strided"):
        monkeypatch.setattr(torch.Tensor, name, _filled(getattr(torch.Tensor, name)))
    yield


def _filled(make: Any) -> Any:
    import torch

    def fresh(*args: Any, **kwargs: Any) -> torch.Tensor:
        made = make(*args, **kwargs)
        if type(made) is not torch.Tensor or made.device.type == "meta" or torch.compiler.is_compiling():
            return made
        with torch.no_grad():
            if made.is_floating_point():
                made.fill_(float("nan"))
            elif made.dtype in (torch.int32, torch.int64):
                made.fill_(torch.iinfo(made.dtype).min // 2)
        return made

    return fresh


@pytest.fixture
def data_folder() -> Path:
    """Folder of public data sets: CTR_REC_DATA, or ../shared/data beside the checkout. Skips where there is none."""
    folder = Path(os.environ.get("CTR_REC_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no public data at {folder}; set CTR_REC_DATA to a folder with ml-1m/ and kuairand-pure/")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none"))
