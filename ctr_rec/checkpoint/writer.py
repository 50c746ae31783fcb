"""PyTorch's own writers, local and through fsspec, that know the checksum of a file when it is written.

Reading a file back for its checksum would take as long again on a disk, and a download of all that was uploaded to a
store.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.filesystem import FileSystemWriter

from ctr_rec.checkpoint.manifest import StoredFile
from ctr_rec.files import AnyPath


class Checksum:
    """A binary stream that is only written to, from its beginning to its end."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.crc, self.bytes = 0, 0

    def write(self, data: Any) -> int:
        self._stream.write(data)
        size = memoryview(data).nbytes
        self.crc = zlib.crc32(data, self.crc)
        self.bytes += size
        return size

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        self._stream.close()


def make_writer(folder: AnyPath) -> tuple[FileSystemWriter, dict[str, StoredFile]]:
    """A writer for `torch.distributed.checkpoint.save`, and what it will have written on this rank, by name."""
    if isinstance(folder, Path):
        writer = FileSystemWriter(folder, single_file_per_rank=True, sync_files=True, overwrite=True)
    else:
        from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

        # An upload is durable when it ends; without a file descriptor to sync, torch would sync every disk of the host.
        writer = FsspecWriter(str(folder), single_file_per_rank=True, sync_files=False, overwrite=True)
    written: dict[str, StoredFile] = {}
    inner = writer.fs.create_stream

    @contextmanager
    def create_stream(path: Any, mode: str) -> Iterator[Any]:
        with inner(path, mode) as stream:
            counted = Checksum(stream)
            yield counted
        # The index is written beside its name and renamed.
        name = str(path).replace("\\", "/").rpartition("/")[2].removesuffix(".tmp")
        written[name] = StoredFile(name=name, bytes=counted.bytes, crc32=f"{counted.crc:08x}")

    writer.fs.create_stream = create_stream  # type: ignore[method-assign]
    return writer, written
