from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.checkpoint.manifest import (
    MANIFEST,
    Manifest,
    check_compatible,
    check_file,
    describe_file,
    read_manifest,
    table_sizes,
    versions,
    write_manifest,
)
from ctr_rec.errors import CheckpointError
from ctr_rec.layers.layout import Axes
from ctr_rec.schema.table import SparseSpec
from tests.sharding.small import tables

SPEC = SparseSpec(tables=tuple(tables()), user=(), item=(), event=(), counters=(), num_actions=1, ticks_per_second=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "expected format 1, got 'list'"),
        ('{"format": 9}', "expected format 1, got 9; read it with the version that wrote it"),
        ('{"format": 1, "step": -1}', "step: input should be greater than or equal to 0"),
        ('{"format": 1, "step": 1, "colour": 2}', "colour: extra inputs are not permitted"),
    ],
)
def test_bad_manifest(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_manifest(tmp_path)


def test_manifest_comes_back_as_written(tmp_path: Path) -> None:
    layouts: dict[str, Axes] = {"head.weight": (None, (("item.film", 4), ("time", 2))), "bias": (None,)}
    metrics = {"auc": 0.75, "gauc": None}
    written = Manifest(step=3, tables=table_sizes(SPEC), layouts=layouts, metrics=metrics, train_range=(1, 9))
    write_manifest(tmp_path, written)
    assert read_manifest(tmp_path) == written
    assert [p.name for p in tmp_path.iterdir()] == [MANIFEST]


def test_a_write_cut_short_leaves_the_old_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(tmp_path, Manifest(step=3))

    def cut(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", cut)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(tmp_path, Manifest(step=4))
    assert read_manifest(tmp_path).step == 3


def test_checksum_is_over_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctr_rec.checkpoint.manifest.READ_BYTES", 4)
    (tmp_path / "x").write_bytes(b"123456789")
    found = describe_file(tmp_path, "x")
    assert (found.bytes, found.crc32) == (9, "cbf43926")
    check_file(tmp_path, found)
    (tmp_path / "x").write_bytes(b"123456780")
    with pytest.raises(CheckpointError, match="expected CRC-32 cbf43926"):
        check_file(tmp_path, found)


def test_versions_name_what_decides_the_bytes() -> None:
    assert {"python", "torch", "torchrec", "numpy"} <= versions().keys()


def test_same_data_and_tables_are_compatible() -> None:
    check_compatible(Manifest(step=1, data_fingerprint="a", tables=table_sizes(SPEC)), "a", SPEC)


def test_other_data() -> None:
    words = r"fingerprint a, this log has b: the data changed; resume on the log of the run, or with --grow"
    with pytest.raises(CheckpointError, match=words):
        check_compatible(Manifest(step=1, data_fingerprint="a"), "b", SPEC)


def test_other_tables_are_listed() -> None:
    stored = {**table_sizes(SPEC), "item": (90, 8), "shop": (4, 8)}
    del stored["word"]
    with pytest.raises(CheckpointError) as error:
        check_compatible(Manifest(step=1, data_fingerprint="a", tables=stored), "a", SPEC)
    parts = ("item was 90 x 8, is 101 x 8", "shop is in the checkpoint only", "word is not in the checkpoint")
    for part in (*parts, "train with --resume --grow where tables only grew"):
        assert part in str(error.value)


def test_a_prepared_log_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"format": 1, "data_schema": {}}')
    with pytest.raises(CheckpointError, match="is a prepared log, not a checkpoint; expected a checkpoint or a run"):
        read_manifest(tmp_path)
