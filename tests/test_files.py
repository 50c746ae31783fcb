import errno
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from iopath.common.file_io import PathHandler

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.files import (
    PATHS,
    StorePath,
    file_size,
    is_file,
    join_path,
    local_file,
    place,
    read_text,
    remove_tree,
    sync_folder,
    write_atomically,
    write_durably,
    write_json,
)


class _Store(PathHandler):
    """A cloud store in a folder, as small as iopath allows."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _get_supported_prefixes(self) -> list[str]:
        return ["shelf://"]

    def _isfile(self, path: str, **kwargs: object) -> bool:
        return (self.folder / path.removeprefix("shelf://")).is_file()

    def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
        return str(self.folder / path.removeprefix("shelf://"))


def test_local_files_are_read_in_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    path = join_path(tmp_path, "a.txt")
    assert is_file(path)
    assert local_file(path) == tmp_path / "a.txt"
    assert read_text(path) == "text"


def test_a_missing_file_is_named_with_the_folder_looked_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"b.txt: no such file \(looked from {Path.cwd()}\)"):
        local_file(tmp_path / "b.txt")


def test_a_scheme_without_a_handler_is_refused_with_the_remedy() -> None:
    with pytest.raises(DataError, match=r"no handler is registered for moon://; register one on ctr_rec.files.PATHS"):
        local_file("moon://crater/log/manifest.json")


def test_a_registered_handler_serves_every_reader(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a.txt").write_text("far away")
    PATHS.register_handler(_Store(tmp_path), allow_override=True)
    assert is_file("shelf://log/a.txt")
    assert read_text(join_path("shelf://log", "a.txt")) == "far away"


@pytest.fixture
def store() -> Iterator[StorePath]:
    """An empty folder in fsspec's memory."""
    folder = place("memory://bucket/runs/")
    assert isinstance(folder, StorePath)
    yield folder
    if folder.exists():
        remove_tree(folder)


def test_what_has_no_scheme_is_a_plain_path(tmp_path: Path) -> None:
    assert place("runs/a") == Path("runs/a")
    assert place(tmp_path) == tmp_path
    assert place(f"file://{tmp_path}/a") == tmp_path / "a"
    assert str(place("memory://bucket/runs/")) == "memory://bucket/runs"


def test_a_path_in_a_store_has_the_manners_of_a_path(store: StorePath) -> None:
    file = store / "step-1" / "manifest.json"
    assert (file.name, file.parent.name, str(file.with_name("b"))) == (
        "manifest.json",
        "step-1",
        "memory://bucket/runs/step-1/b",
    )
    assert not store.exists()
    assert list(store.glob("*")) == []
    write_durably(file, b"first")
    assert file.is_file()
    assert not file.is_dir()
    assert file.parent.is_dir()
    assert file_size(file) == 5
    assert [p.name for p in store.glob("step-*")] == ["step-1"]
    assert [p.name for p in file.parent.iterdir()] == ["manifest.json"]
    with file.open("rb", buffering=0) as opened:
        opened.seek(2)
        assert opened.read() == b"rst"
    file.unlink()
    file.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        file.unlink()


def test_a_file_is_replaced_whole_or_stays(store: StorePath, tmp_path: Path) -> None:
    for folder in (store, tmp_path):
        for text in ("one", "another"):
            write_atomically(folder / "best.json", text)
            assert (folder / "best.json").read_text() == text
        assert [p.name for p in folder.iterdir()] == ["best.json"]


def test_removing_a_folder(store: StorePath, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_durably(store / "a" / "b" / "file", b"x")
    for folder in (store / "a", tmp_path / "a"):
        remove_tree(folder)
        sync_folder(folder.parent)
        assert not folder.exists()


def test_a_scheme_that_nobody_knows_and_one_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"fsspec knows no store for moon:// .*install the package that brings moon"):
        place("moon://crater/run")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigError, match=r"s3:// needs the package s3fs, .* install it with `pip install s3fs`"):
        place("s3://bucket/run")


def test_a_store_that_cannot_start_is_told_in_one_line() -> None:
    class Broken(LocalFileSystem):
        protocol = "broken"

        def __init__(self, **kwargs: object) -> None:
            raise OSError("no cluster\nand many more lines")

    fsspec.register_implementation("broken", Broken, clobber=True)
    with pytest.raises(ConfigError, match=r"store broken:// cannot be opened: OSError: no cluster; set up"):
        place("broken://run")


def test_a_file_is_whole_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "a.json", {"y": 1, "x": "ü"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "y": 1,\n "x": "\\u00fc"\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"y": float("nan")})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ctr_rec.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a.json", "longer than before" * 100)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"y": 1, "x": "ü"}
