from __future__ import annotations

import io
import zlib
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ctr_rec.checkpoint import store
from ctr_rec.checkpoint.manifest import describe_file
from ctr_rec.checkpoint.state import training_state
from ctr_rec.checkpoint.store import save
from ctr_rec.checkpoint.writer import Checksum, make_writer
from ctr_rec.errors import CheckpointError
from ctr_rec.files import place, remove_tree
from ctr_rec.sharding.group import open_group
from tests.checkpoint.test_store import manifest


def test_a_stream_knows_what_went_through_it() -> None:
    under = io.BytesIO()
    stream = Checksum(under)
    assert stream.write(b"abc") == 3
    assert stream.write(torch.arange(2.0).numpy().data) == 8
    assert stream.tell() == 11
    assert stream.crc == zlib.crc32(under.getvalue())


@pytest.mark.parametrize("where", ["disk", "store"])
def test_every_file_is_described_as_a_reader_would(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "c" if where == "disk" else place("memory://bucket/c")
    try:
        writer, written = make_writer(folder)
        state = {"a": torch.randn(1000, 7), "b": torch.tensor(3), "c": torch.zeros(0, 2), "d": ["plain"]}
        save_distributed(state, storage_writer=writer, no_dist=True)
        assert {p.name for p in folder.iterdir()} == set(written) == {".metadata", "__0_0.distcp"}
        for name, file in written.items():
            assert file == describe_file(folder, name)
    finally:
        if where == "store":
            remove_tree(place("memory://bucket"))


def test_a_file_that_the_disk_did_not_take_whole_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*args: object) -> None:
        data = tmp_path / "c" / "__0_0.distcp"
        data.write_bytes(data.read_bytes()[:-1])

    monkeypatch.setattr(store, "sync_folder", cut)
    with open_group("cpu") as group, pytest.raises(CheckpointError, match=r"was written with \d+ bytes and has \d+"):
        save(tmp_path / "c", training_state(torch.nn.Linear(2, 2)), manifest(), {}, group)
    assert not (tmp_path / "c").exists()
