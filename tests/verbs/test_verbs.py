"""Groups keep the order in which verbs were added, and every verb takes --debug and -h."""

from __future__ import annotations

import click
from click.testing import CliRunner

from ctr_rec.verbs import DEBUG, HELP, Verbs


@click.group(cls=Verbs, context_settings=HELP)
@DEBUG
def group() -> None:
    """A group."""


@group.command()
def zebra() -> None:
    """A sentence that is so long that click would cut it off in the middle, were it asked for the short help."""


@group.command()
def ant() -> None:
    """Short."""


def test_order_and_whole_sentences() -> None:
    out = CliRunner().invoke(group, ["-h"]).output
    assert out.index("zebra") < out.index("ant")
    assert "..." not in out.partition("Commands:")[2]


def test_debug_stands_anywhere() -> None:
    for words in (["--debug", "ant"], ["ant", "--debug"]):
        assert CliRunner().invoke(group, words).exit_code == 0
