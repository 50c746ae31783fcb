"""The one place where paths become files: of data through iopath, of checkpoints through fsspec.

Here too a file is written whole or not at all. For logs, cloud stores register a handler on `PATHS`.

from iopath.common.s3 import S3PathHandler
from ctr_rec.files import PATHS
PATHS.register_handler(S3PathHandler())       # from then on s3:// paths work wherever a log is named

Checkpoints: `place("s3://bucket/run")` is a `StorePath`, which has the manners of `pathlib.Path` that we use; fsspec
finds the plug-in of the scheme (s3fs, gcsfs, ...). `place` of anything without a scheme is a plain `Path`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from iopath.common.file_io import PathManager

from ctr_rec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

PATHS = PathManager()


def join_path(folder: str | Path, *parts: str) -> str:
    """A path below a folder, local or with a scheme."""
    return "/".join([str(folder).rstrip("/"), *parts])


def is_file(path: str | Path) -> bool:
    """Whether the path names an existing file, local or remote."""
    return PATHS.isfile(str(path))


def local_file(path: str | Path) -> Path:
    """A local copy (or the file itself, where it is local) to read or map into memory.

    Raises:
        DataError: no such file, or no handler for its scheme.
    """
    text = str(path)
    if "://" in text and not any(text.startswith(prefix) for prefix in PATHS._path_handlers):
        scheme = text.split("://", 1)[0]
        raise DataError(
            f"{text}: no handler is registered for {scheme}://; register one on ctr_rec.files.PATHS in the recipe"
        )
    if not PATHS.isfile(text):
        raise DataError(f"{text}: no such file (looked from {Path.cwd()})")
    return Path(PATHS.get_local_path(text))


def read_text(path: str | Path) -> str:
    """The whole of a text file. Raises DataError as `local_file` does."""
    return local_file(path).read_text(encoding="utf-8")


@dataclass(frozen=True, order=True)
class StorePath:
    """A path with a scheme. A folder of an object store exists as long as something lies in it.

    Every question goes to the store: a listing that fsspec remembers may be older than what another rank wrote.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, part: str) -> StorePath:
        return StorePath(f"{self.url.rstrip('/')}/{part}")

    @property
    def name(self) -> str:
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> StorePath:
        return StorePath(self.url.rstrip("/").rpartition("/")[0])

    def with_name(self, name: str) -> StorePath:
        return self.parent / name

    @property
    def store(self) -> AbstractFileSystem:
        """fsspec's file system. Raises ConfigError when the scheme is unknown or its plug-in is not installed."""
        return _store_of(self.url)

    def _fresh(self) -> AbstractFileSystem:
        store = self.store
        store.invalidate_cache()
        return store

    def exists(self) -> bool:
        return bool(self._fresh().exists(self.url))

    def is_file(self) -> bool:
        return bool(self._fresh().isfile(self.url))

    def is_dir(self) -> bool:
        return bool(self._fresh().isdir(self.url))

    def size(self) -> int:
        return int(self._fresh().size(self.url) or 0)

    def open(self, mode: str = "r", buffering: int = -1) -> Any:
        """buffering: taken for pathlib's sake; fsspec buffers as the store likes it."""
        del buffering
        return self.store.open(self.url, mode)

    def read_text(self, encoding: str = "utf-8") -> str:
        content = self.store.cat_file(self.url)
        assert isinstance(content, bytes)
        return content.decode(encoding)

    def iterdir(self) -> Iterator[StorePath]:
        found = self._fresh().ls(self.url, detail=False)
        names = {str(entry).rstrip("/").rpartition("/")[2] for entry in found}
        return (self / name for name in sorted(names - {"", self.name}))

    def glob(self, pattern: str) -> Iterator[StorePath]:
        """Entries of this folder whose name fits, none where there is no such folder."""
        entries = self.iterdir() if self.is_dir() else iter(())
        return (entry for entry in entries if fnmatchcase(entry.name, pattern))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        self.store.makedirs(self.url, exist_ok=exist_ok)

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok or self.exists():
            self.store.rm_file(self.url)


AnyPath: TypeAlias = "Path | StorePath"


def place(path: str | Path | StorePath) -> AnyPath:
    """A local path or a path in a store.

    Raises:
        ConfigError: the scheme is unknown, or its plug-in is not installed (names the package) or cannot start.
    """
    text = str(path)
    if isinstance(path, Path) or "://" not in text:
        return Path(text)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    _store_of(text)
    return StorePath(text.rstrip("/"))


def _store_of(url: str) -> AbstractFileSystem:
    import fsspec
    from fsspec.registry import known_implementations

    scheme = url.partition("://")[0]
    try:
        return fsspec.url_to_fs(url)[0]
    except ImportError as error:
        package = str(known_implementations.get(scheme, {}).get("class", scheme)).partition(".")[0]
        raise ConfigError(
            f"{url}: {scheme}:// needs the package {package}, which cannot be imported ({error}); "
            f"install it with `pip install {package}` on every host"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{url}: fsspec knows no store for {scheme}:// ({error}); use one that it knows (s3, gs, abfs, hdfs, ...), "
            f"install the package that brings {scheme}://, or give a local path"
        ) from error
    # A plug-in may look for credentials, a cluster or a library of another language, and says so in its own way.
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise ConfigError(
            f"{url}: the store {scheme}:// cannot be opened: {type(error).__name__}: {first_line}; set up what its "
            "fsspec plug-in asks for, or give another path"
        ) from error


def file_size(path: AnyPath) -> int:
    """Bytes of a file."""
    return path.size() if isinstance(path, StorePath) else path.stat().st_size


def write_atomically(path: AnyPath, content: str | bytes) -> None:
    """The file appears whole or not at all, also after a crash of the machine.

    Locally it is written beside its target, forced to the disk and renamed. In a store it is uploaded beside its target
    and moved, which object stores do as a copy that appears at once.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(path.name + ".tmp")
    if isinstance(path, StorePath):
        path.store.pipe_file(str(temporary), data)
        if path.exists():  # not every store renames over a file
            path.unlink()
        path.store.mv(str(temporary), path.url)
        return
    assert isinstance(temporary, Path)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def write_json(path: AnyPath, value: Any) -> None:
    """`write_atomically` of plain data. Keys stay in order: the order of channels is part of a model.

    Raises ValueError for numbers that JSON does not know (NaN, infinite): whoever writes says what stands for them.
    """
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_durably(path: AnyPath, content: bytes) -> None:
    """Writes a file and forces it to the disk; in a store it is there when the upload ends."""
    with path.open("wb") as file:
        file.write(content)
        if isinstance(file, io.BufferedWriter) and isinstance(path, Path):
            file.flush()
            os.fsync(file.fileno())


def sync_folder(folder: AnyPath) -> None:
    """Forces a folder's entries (new files, renames) to the disk; a store needs no such thing."""
    if isinstance(folder, StorePath):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(folder: AnyPath) -> None:
    """Removes a folder with all that is in it."""
    if isinstance(folder, Path):
        shutil.rmtree(folder)
    else:
        folder.store.rm(folder.url, recursive=True)
