from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, BytesStorageMetadata, Metadata, MetadataIndex

from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.checkpoint.safe_reader import MetadataUnpickler, SafeLoadPlanner, SafeReader, read_metadata
from ctr_rec.checkpoint.store import load, save
from ctr_rec.checkpoint.stored_tensor import UnusualStorageError
from ctr_rec.errors import CheckpointError
from ctr_rec.sharding.group import open_group


class Payload:
    """Touches a file when unpickled by anything that runs what it reads."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.target}",))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    state = {"model": {"weight": torch.arange(12.0).reshape(3, 4), "half": torch.ones(2, dtype=torch.bfloat16)}}
    with open_group("cpu") as group:
        save(tmp_path / "c", {**state, "note": {"words": [1, "two"]}}, Manifest(step=0), {}, group)
    return tmp_path / "c"


def read(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    with open_group("cpu") as group:
        load(folder, state, group, check=False)
    return state


def test_the_payload_would_run_elsewhere(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "touched")))
    assert (tmp_path / "touched").exists()


def test_tensors_and_plain_entries_are_read(stored: Path) -> None:
    state = {"model": {"weight": torch.zeros(3, 4), "half": torch.zeros(2, dtype=torch.bfloat16)}, "note": {"words": 0}}
    found = read(stored, state)
    assert torch.equal(found["model"]["weight"], torch.arange(12.0).reshape(3, 4))
    assert torch.equal(found["model"]["half"], torch.ones(2, dtype=torch.bfloat16))
    assert found["note"]["words"] == [1, "two"]


def test_a_tensor_of_another_dtype_is_named_rather_than_cast(stored: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model.half in __0_0.distcp: expected a target of torch.bfloat16"):
        read(stored, {"model": {"half": torch.zeros(2)}})


def test_a_tensor_that_does_not_lie_plainly_is_read_whole(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unusual(*args: object) -> None:
        raise UnusualStorageError

    monkeypatch.setattr("ctr_rec.checkpoint.safe_reader.locate", unusual)
    found = read(stored, {"model": {"weight": torch.zeros(3, 4)}})
    assert torch.equal(found["model"]["weight"], torch.arange(12.0).reshape(3, 4))


def test_code_in_the_metadata_is_refused_and_never_run(stored: Path, tmp_path: Path) -> None:
    metadata = read_metadata(stored)
    metadata.planner_data = {"x": Payload(tmp_path / "touched")}
    (stored / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"\.metadata names posix.system, which no checkpoint needs: refused"):
        read(stored, {"model": {"weight": torch.zeros(3, 4)}})
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["builtins eval", "torch load", "torch.hub load", "ctr_rec.errors CtrRecError"])
def test_only_listed_classes_can_be_named(stored: Path, name: str) -> None:
    module, attribute = name.split()
    (stored / ".metadata").write_bytes(b"c" + module.encode() + b"\n" + attribute.encode() + b"\n.")
    with pytest.raises(CheckpointError, match=rf"names {module}\.{attribute}"):
        read_metadata(stored)


def _getattr_of(owner: str, name: str) -> bytes:
    """A pickle that calls getattr, as Python 3.11.0 to 3.11.3 write for a member of an enumeration."""
    module, attribute = owner.rsplit(".", 1)
    return f"cbuiltins\ngetattr\n(c{module}\n{attribute}\nV{name}\ntR.".encode()


def test_a_member_of_an_enumeration_may_be_asked_for_by_name() -> None:
    owner = "torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING"
    found = MetadataUnpickler(io.BytesIO(_getattr_of(owner, "TORCH_PRESERVE_FORMAT")), Path("x")).load()
    assert found is _MEM_FORMAT_ENCODING.TORCH_PRESERVE_FORMAT


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING", "__class__"),
        ("torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING", "__subclasses__"),
        ("torch.distributed.checkpoint.metadata.Metadata", "__init__"),
        ("torch.Size", "__base__"),
    ],
)
def test_nothing_else_can_be_asked_of_anything(stored: Path, owner: str, name: str) -> None:
    (stored / ".metadata").write_bytes(_getattr_of(owner, name))
    with pytest.raises(CheckpointError, match=f"asks for '{name}' of .*refused, nothing was run"):
        read_metadata(stored)


def craft_bytes(stored: Path, target: Path) -> None:
    """Replaces the stored bytes entry by a pickle with a payload, and its place in the metadata accordingly."""
    content = io.BytesIO()
    torch.save(Payload(target), content)
    metadata = read_metadata(stored)
    index = next(i for i in metadata.storage_data if i.fqn == "note.words")
    info = metadata.storage_data[index]
    (stored / "evil.distcp").write_bytes(content.getvalue())
    info.relative_path, info.offset, info.length = "evil.distcp", 0, len(content.getvalue())
    (stored / ".metadata").write_bytes(pickle.dumps(metadata))


def test_code_in_a_bytes_entry_is_refused_and_never_run(stored: Path, tmp_path: Path) -> None:
    craft_bytes(stored, tmp_path / "touched")
    with pytest.raises(CheckpointError, match=r"entry 'note.words' .* needs code to be run"):
        read(stored, {"note": {"words": 0}})
    assert not (tmp_path / "touched").exists()


def test_code_in_place_of_a_tensor_is_refused_and_never_run(stored: Path, tmp_path: Path) -> None:
    craft_bytes(stored, tmp_path / "touched")
    metadata = read_metadata(stored)
    evil = next(v for i, v in metadata.storage_data.items() if i.fqn == "note.words")
    for index in metadata.storage_data:
        if index.fqn == "model.weight":
            metadata.storage_data[index] = evil
    (stored / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        read(stored, {"model": {"weight": torch.zeros(3, 4)}})
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/file", ".."])
def test_files_outside_the_folder_are_refused(stored: Path, name: str) -> None:
    metadata = read_metadata(stored)
    next(iter(metadata.storage_data.values())).relative_path = name
    (stored / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"expected a file name inside the checkpoint's folder; refused"):
        read_metadata(stored)


def test_stored_transforms_are_refused(stored: Path) -> None:
    metadata = read_metadata(stored)
    next(iter(metadata.storage_data.values())).transform_descriptors = ["zstd"]
    (stored / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"stored with .*zstd.*expected plain tensors"):
        read_metadata(stored)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2]), pickle.dumps(Metadata({}))])
def test_what_is_no_metadata(stored: Path, content: bytes) -> None:
    (stored / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"\.metadata(:| cannot be read)"):
        read_metadata(stored)
    (stored / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=r"\.metadata is missing"):
        read_metadata(stored)


def test_reader_and_planner_are_for_pytorchs_own_load(stored: Path) -> None:
    from torch.distributed.checkpoint.state_dict_loader import load as load_distributed

    state = {"model": {"weight": torch.zeros(3, 4)}}
    load_distributed(state, storage_reader=SafeReader(stored), planner=SafeLoadPlanner(), no_dist=True)
    assert torch.equal(state["model"]["weight"], torch.arange(12.0).reshape(3, 4))
    metadata = SafeReader(stored).read_metadata()
    assert isinstance(metadata.state_dict_metadata["note.words"], BytesStorageMetadata)
    assert MetadataIndex("note.words") in metadata.storage_data
