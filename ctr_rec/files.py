"""The one place where paths of data become files. Cloud stores register a handler on `PATHS`, and every reader has it.

from iopath.common.s3 import S3PathHandler
from ctr_rec.files import PATHS
PATHS.register_handler(S3PathHandler())       # from then on s3:// paths work wherever a log is named
"""

from __future__ import annotations

from pathlib import Path

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
