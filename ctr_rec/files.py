"""The one place where paths of data become files, and where a file is written whole or not at all.

Cloud stores register a handler on `PATHS`, and every reader has it:

from iopath.common.s3 import S3PathHandler
from ctr_rec.files import PATHS
PATHS.register_handler(S3PathHandler())       # from then on s3:// paths work wherever a log is named
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from iopath.common.file_io import PathManager

from ctr_rec.errors import DataError

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


def write_text(path: Path, text: str) -> None:
    """The file appears whole or the old one stays, also after a crash of the machine: written beside it, forced to
    the disk, renamed."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of plain data. Keys stay in order: the order of channels is part of a model.

    Raises ValueError for numbers that JSON does not know (NaN, infinite): whoever writes says what stands for them.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Forces a folder's entries (new files, renames) to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
