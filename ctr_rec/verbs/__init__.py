"""What every verb of the command line is made of: its class, and types of options that several share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
# train: the range of another log, such as the next period's, that the run has not seen.
SPLIT = click.Choice(["train", "valid", "test"])
EVENTS = click.IntRange(min=1)
HELP = {"help_option_names": ["-h", "--help"]}
DEBUG = click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
"""For groups of verbs; a verb has it by itself."""


class Verb(click.Command):
    """A command that also takes --debug after its name, where people type it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Said of every verb, not inherited: click keeps the option that a verb had when it was first asked alone.
        super().__init__(*args, **{**kwargs, "context_settings": HELP})
        self.params.append(click.Option(["--debug"], is_flag=True, expose_value=False, help="Show tracebacks."))

    def get_short_help_str(self, limit: int = 45) -> str:
        """The whole first sentence in the list of verbs; click would cut it off."""
        return super().get_short_help_str(max(limit, 200))


class Verbs(click.Group):
    """Lists verbs in the order of a project's life instead of the alphabet's."""

    command_class = Verb

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)
