"""Where a prepared log is built: in a temporary folder beside its place, renamed when it is whole."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa

from ctr_rec.errors import DataError


@contextmanager
def building(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yields a temporary sibling of `out`; renames it to `out` at the end, removes it when anything goes wrong.

    Raises:
        DataError: `out` exists and is not empty (unless `overwrite`), or its parent cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder to write the log to, got a file; choose another name")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise DataError(f"{out} is not empty; choose another folder, remove it, or ask for overwriting (--overwrite)")
    temporary = out.with_name(f".{out.name}.building-{os.getpid()}")
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    try:
        yield temporary
        with storage_errors(out):
            _swap(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, out: Path) -> None:
    """The old folder is only removed once the new one stands in its place."""
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    if out.exists():
        out.rename(old)
    try:
        temporary.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def storage_errors(out: Path) -> Iterator[None]:
    """Turns failures of the disk into a DataError that says which, and that nothing else was touched."""
    try:
        yield
    except DataError:
        raise
    except (OSError, pl.exceptions.PolarsError, pa.ArrowException) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        what = "the disk is full" if full else f"{type(error).__name__}: {error}"
        remedy = "free space, or choose a folder on another disk" if full else "check the folder and its permissions"
        raise DataError(
            f"{out} cannot be written: {what}; the unfinished folder was removed and nothing else was changed: {remedy}"
        ) from error
