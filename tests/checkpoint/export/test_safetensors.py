from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ctr_rec.checkpoint.export import safetensors
from ctr_rec.checkpoint.export.safetensors import write_safetensors
from ctr_rec.checkpoint.tensors import read_contents
from ctr_rec.errors import CheckpointError
from tests.checkpoint.export.reading import read_safetensors

STATE = {
    "model.matrix": torch.arange(35.0).reshape(7, 5),
    "model.half": torch.arange(6, dtype=torch.float16),
    "model.count": torch.tensor(7),
    "model.flags": torch.tensor([True, False, True]),
    "model.cube": torch.arange(24, dtype=torch.int32).reshape(2, 3, 4),
    "model.empty": torch.zeros(0, 3),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_distributed(STATE, checkpoint_id=tmp_path / "dcp", no_dist=True)
    return tmp_path / "dcp"


@pytest.mark.parametrize("slice_bytes", [1, 40, 1 << 25])
def test_any_shape_and_kind_in_slices_of_any_size(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_bytes: int
) -> None:
    monkeypatch.setattr(safetensors, "SLICE_BYTES", slice_bytes)
    write_safetensors(tmp_path / "a.safetensors", read_contents(folder).dense)
    found = read_safetensors(tmp_path / "a.safetensors")
    assert found.keys() == {name.removeprefix("model.") for name in STATE}
    for name, value in STATE.items():
        assert np.array_equal(found[name.removeprefix("model.")], value.numpy())
        assert found[name.removeprefix("model.")].shape == tuple(value.shape)


def test_the_package_that_others_use_reads_it(folder: Path, tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors.numpy", reason="the safetensors package is for this test alone")
    write_safetensors(tmp_path / "a.safetensors", read_contents(folder).dense)
    for name, value in package.load_file(tmp_path / "a.safetensors").items():
        assert np.array_equal(value, STATE[f"model.{name}"].numpy())


def test_a_kind_that_the_format_lacks_is_named(tmp_path: Path) -> None:
    save_distributed({"model.z": torch.zeros(2, dtype=torch.complex64)}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    with pytest.raises(CheckpointError, match=r"z is torch.complex64, which safetensors do not hold"):
        write_safetensors(tmp_path / "a.safetensors", read_contents(tmp_path / "dcp").dense)
