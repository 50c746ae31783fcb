"""What the command line says: the remedy with the trouble, and the status it was given."""

from __future__ import annotations

import errno

import pytest

from ctr_rec.sentences import fail, os_sentence


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full (x.bin); free some space"),
        (errno.EACCES, "no permission to write or read (x.bin); choose another folder"),
        (errno.ENOENT, "no such file or folder (x.bin); looked from"),
        (errno.EIO, "broken (x.bin)"),
    ],
)
def test_a_sentence_names_the_file_and_the_remedy(number: int, said: str) -> None:
    assert os_sentence(OSError(number, "broken", "x.bin")).startswith(said)


def test_a_failure_is_said_on_stderr_and_gives_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail("no", 2) == 2
    assert capsys.readouterr().err == "ctr-rec: error: no (--debug shows where)\n"
