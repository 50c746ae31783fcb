"""The components as TorchX sees them: parsed from their file, typed flags, and words that our command line takes."""

from __future__ import annotations

import shlex
from typing import Any

import click
import pytest

from ctr_rec import cli
from tests.structure.house import ROOT

pytest.importorskip("torchx", reason="torchx is not installed (extra launch)")

from torchx.specs import AppDef
from torchx.specs.builders import _create_args_parser, materialize_appdef
from torchx.specs.finder import get_component

FILE = ROOT / "torchx_components" / "ctr.py"


def built(verb: str, *flags: str) -> AppDef:
    return materialize_appdef(get_component(f"{FILE}:{verb}").fn, list(flags))


def words(app: AppDef) -> list[str]:
    """The shell line of the only role, split as bash would."""
    (role,) = app.roles
    assert role.entrypoint == "bash"
    return shlex.split(role.args[1])


def parsed(app: AppDef) -> tuple[str, dict[str, Any]]:
    """Verb and parameters that the command line makes of what follows `-m ctr_rec`."""
    line = words(app)
    verb, *rest = line[line.index("ctr_rec") + 1 :]
    command = cli.commands.commands[verb]
    return verb, command.make_context(verb, rest, parent=click.Context(cli.commands)).params


@pytest.mark.parametrize("verb", ["prepare", "train", "evaluate"])
def test_torchx_accepts_the_component(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _create_args_parser(get_component(f"{FILE}:{verb}").fn).parse_args(["--help"])
    assert "folder of" in capsys.readouterr().out


def test_every_parameter_has_its_line_of_help() -> None:
    for verb in ("prepare", "train", "evaluate"):
        parser = _create_args_parser(get_component(f"{FILE}:{verb}").fn)
        bare = [a.dest for a in parser._actions if not a.help or a.help.strip().startswith("(")]
        assert not bare, f"{verb}: no help for {bare}"


def test_train_is_torchrun_of_the_same_module() -> None:
    app = built("train", "--recipe", "r.py:f", "--run_dir", "runs/a", "-j", "2x4", "--gpu", "4", "--env", "A=1")
    (role,) = app.roles
    line = words(app)
    assert line[0] == "torchrun"
    assert line[line.index("--nnodes") + 1] == "2"
    assert line[line.index("--nproc_per_node") + 1] == "4"
    assert (role.num_replicas, role.resource.gpu, role.env["A"]) == (2, 4, "1")
    assert int(role.env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) > 30
    verb, got = parsed(app)
    assert verb == "train"
    assert (got["recipe"], str(got["run_dir"]), got["resume"]) == ("r.py:f", "runs/a", False)
    assert got["grow"] is False


def test_settings_survive_the_shell() -> None:
    flags = ("--recipe", "r.py:f", "--run_dir", "a b", "--resume", "True", "--grow", "True")
    flags += ("--follow_days", "logs/days", "train.seed=3", 'tower.hidden=[1, "x"]')
    got = parsed(built("train", *flags))[1]
    assert got["overrides"] == ("train.seed=3", 'tower.hidden=[1, "x"]')
    assert str(got["run_dir"]) == "a b"
    assert str(got["periods"]) == "logs/days"
    assert got["resume"] is True
    assert got["grow"] is True


def test_prepare_passes_its_choices() -> None:
    flags = ("--recipe_dir", "data/x", "--raw", "raw", "--out", "out", "--split", "1,2", "--overwrite", "True")
    flags += ("--content", "films.parquet", "--semantic_ids", "3x256", "--force", "True")
    flags += ("--grow", "logs/old", "--every", "7d", "--context", "512", "--start", "2000-05-01", "--end", "2001-01-01")
    verb, got = parsed(built("prepare", *flags))
    assert verb == "prepare"
    assert {k: str(v) for k, v in got.items()} == {
        "recipe_dir": "data/x",
        "raw": "raw",
        "out": "out",
        "split": "1,2",
        "overwrite": "True",
        "grow": "logs/old",
        "every": "7d",
        "context": "512",
        "start": "2000-05-01",
        "end": "2001-01-01",
        "vectors": "films.parquet",
        "semantic_ids": "3x256",
        "force": "True",
    }


def test_evaluate_passes_its_choices() -> None:
    verb, got = parsed(built("evaluate", "--run_dir", "runs/a", "--split", "valid", "--log", "l"))
    assert verb == "evaluate"
    assert {k: str(v) for k, v in got.items()} == {
        "run_dir": "runs/a",
        "split": "valid",
        "checkpoint": "best",
        "log": "l",
        "history": "None",
        "branch": "None",
    }


def test_a_missing_recipe_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        built("train", "--run_dir", "runs/a")
    assert "--recipe" in capsys.readouterr().err
