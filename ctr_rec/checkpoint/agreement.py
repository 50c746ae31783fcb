"""Doing something on every rank so that all of them succeed or all of them raise the same sentence."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeVar

from ctr_rec.errors import CheckpointError, CtrRecError
from ctr_rec.sharding.group import Group

T = TypeVar("T")


def on_main(group: Group, what: str, action: Callable[[], object]) -> None:
    """Rank 0 acts; if it fails, all ranks raise CheckpointError."""
    on_all(group, what, action if group.is_main else lambda: None)


def on_all(group: Group, what: str, action: Callable[[], T]) -> list[T]:
    """Every rank acts and receives all results; if one fails, all ranks raise the first failure as CheckpointError.

    what: begins the sentence where the failure says little by itself ("cannot write ...").
    """
    try:
        outcome: tuple[str | None, Any] = (None, action())
    except CtrRecError as error:
        outcome = (str(error), None)
    except OSError as error:
        outcome = (f"{what}: {explain_os_error(error)}", None)
    # A store's plug-in raises what it likes; a rank that kept it to itself would leave the others waiting.
    except Exception as error:
        outcome = (f"{what}: {type(error).__name__}: {error}", None)
    outcomes = group.all_gather_object(outcome)
    for failure, _ in outcomes:
        if failure is not None:
            raise CheckpointError(failure)
    return [result for _, result in outcomes]


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
