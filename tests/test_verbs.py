"""How verbs are shown, whatever they are."""

from __future__ import annotations

import click
from click.testing import CliRunner

from ctr_rec.verbs import HELP, Verbs


@click.group(cls=Verbs, context_settings=HELP)
def toy() -> None:
    """A command line of two verbs."""


@toy.command()
def wash() -> None:
    """Wash everything that is in the basket, and say of each piece how dirty it was before, at length."""


@toy.command()
def dry() -> None:
    """Dry."""


def test_verbs_are_listed_as_declared_with_whole_sentences() -> None:
    lines = CliRunner().invoke(toy, ["-h"], terminal_width=200).output.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in lines if line.strip()] == ["wash", "dry"]
    assert lines[1].endswith("at length.")


def test_every_verb_takes_debug_and_short_help() -> None:
    assert CliRunner().invoke(toy, ["dry", "--debug"]).exit_code == 0
    assert "--debug" in CliRunner().invoke(toy, ["dry", "-h"]).output
    assert CliRunner().invoke(toy, ["dry", "--wet"]).exit_code == 2
