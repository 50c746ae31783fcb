"""What the command line says on stderr: one sentence, from one rank."""

from __future__ import annotations

import errno
from pathlib import Path

import click


def os_sentence(error: OSError) -> str:
    """What stands in the way of a file, and what to do."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}; free some space, or write to another disk"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to write or read{where}; choose another folder, or change its permissions"
    if error.errno == errno.ENOENT:
        return f"no such file or folder{where}; looked from {Path.cwd()}"
    return f"{error.strerror or error}{where}"


def speaks() -> bool:
    """One voice in a job of many ranks: torchrun shows the failure of the others, where it started them."""
    from ctr_rec.sharding.launch import launched_rank, under_torchrun

    return launched_rank() == 0 or not under_torchrun()


def say(sentence: str) -> None:
    """From the rank that speaks."""
    if speaks():
        click.echo(f"ctr-rec: {sentence}", err=True)


def fail(sentence: str, status: int) -> int:
    """Say that it is an error; returns the exit status."""
    say(f"error: {sentence} (--debug shows where)")
    return status
