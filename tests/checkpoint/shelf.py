"""A store with a scheme of its own that several processes see: fsspec's local files behind `shelf://`."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Shelf(LocalFileSystem):
    """Files below the root of this machine, at shelf:///path. Set `refuse` to make every write fail."""

    protocol = "shelf"
    refuse = False

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, str):
            path = path.removeprefix("shelf://")
        return super()._strip_protocol(path)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if Shelf.refuse and "w" in mode:
            raise PermissionError(13, "the store refuses to write", path)
        return super()._open(path, mode, **kwargs)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self.makedirs(self._parent(path), exist_ok=True)
        super().pipe_file(path, value, mode, **kwargs)


fsspec.register_implementation("shelf", Shelf, clobber=True)
