import errno
import json
from pathlib import Path

import pytest
from iopath.common.file_io import PathHandler

from ctr_rec.errors import DataError
from ctr_rec.files import PATHS, is_file, join_path, local_file, read_text, write_json, write_text


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


def test_a_file_is_whole_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "a.json", {"y": 1, "x": "ü"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "y": 1,\n "x": "\\u00fc"\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"y": float("nan")})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ctr_rec.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "a.json", "longer than before" * 100)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"y": 1, "x": "ü"}
