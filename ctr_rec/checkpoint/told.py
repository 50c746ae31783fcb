"""What goes wrong when a checkpoint is written or read, as a sentence with a remedy."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

from ctr_rec.errors import CheckpointError, CtrRecError

T = TypeVar("T")


def told(what: str, action: Callable[[], T]) -> Callable[[], T]:
    """The action, which then fails as CheckpointError alone, whatever a disk or a store's plug-in raises.

    what: begins the sentence where the failure says little by itself ("cannot write ...").
    """

    def act() -> T:
        try:
            return action()
        except CtrRecError as error:
            raise CheckpointError(str(error)) from error
        except OSError as error:
            raise CheckpointError(f"{what}: {explain_os_error(error)}") from error
        # A rank that kept it to itself would leave the others waiting.
        except Exception as error:
            raise CheckpointError(f"{what}: {type(error).__name__}: {error}") from error

    return act


def explain_os_error(error: OSError) -> str:
    """One sentence with a remedy for what usually goes wrong when writing."""
    elsewhere = "choose another --run-dir or checkpoint.folder"
    remedies = {
        errno.ENOSPC: "free space or point --run-dir at another disk; earlier checkpoints are untouched",
        errno.EDQUOT: "free some of your quota or point --run-dir elsewhere; earlier checkpoints are untouched",
        errno.EACCES: f"make the folder writable for this user, or {elsewhere}",
        errno.EPERM: f"make the folder writable for this user, or {elsewhere}",
        errno.EROFS: f"the file system is read-only; {elsewhere}",
        errno.ENOTDIR: f"a part of the path is a file; {elsewhere}",
    }
    remedy = remedies.get(error.errno or 0)
    return f"{error}" + (f"; {remedy}" if remedy else "")
