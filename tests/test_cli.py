"""The command line: what each verb calls, the exit status and the one sentence for each kind of failure."""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ctr_rec import cli
from ctr_rec.errors import DataError
from tests.structure.house import ROOT

Calls = list[dict[str, Any]]


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(w) for w in words])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def watch(monkeypatch: pytest.MonkeyPatch, module: str, name: str, result: Any = None) -> Calls:
    """Replaces a function by one that notes its arguments, bound to the real signature."""
    loaded = importlib.import_module(module)
    signature = inspect.signature(getattr(loaded, name))
    calls: Calls = []

    def note(*args: Any, **kwargs: Any) -> Any:
        calls.append(dict(signature.bind(*args, **kwargs).arguments))
        return result

    monkeypatch.setattr(loaded, name, note)
    return calls


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Makes `ctr-rec inspect x` fail with `error`."""
    import ctr_rec.inspect

    def fail(_path: str, **_options: object) -> str:
        raise error

    monkeypatch.setattr(ctr_rec.inspect, "describe", fail)


def test_help_lists_the_verbs_in_the_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    verbs = ["init", "content", "prepare", "train", "warm-start", "evaluate", "predict", "compare", "scale"]
    verbs += ["inspect", "convert", "doctor", "bench"]
    listed = out.partition("Commands:")[2]
    assert [line.split()[0] for line in listed.splitlines() if line[2:3].strip()] == verbs
    assert "..." not in listed, "every verb says its whole sentence"


@pytest.mark.parametrize("verb", list(cli.commands.commands))
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(verb, "-h") == 0
    out = capsys.readouterr().out
    assert f"Usage: ctr-rec {verb}" in out
    assert "--debug" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert "ctr-rec" in capsys.readouterr().out


def test_module_form_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "ctr_rec", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Usage: ctr-rec" in done.stdout


@pytest.fixture
def guesses(monkeypatch: pytest.MonkeyPatch) -> tuple[Calls, Calls]:
    module = "ctr_rec.prepare.guess"
    return watch(monkeypatch, module, "guess", "the guess"), watch(monkeypatch, module, "write")


def test_init_names_columns_and_a_folder(guesses: tuple[Calls, Calls]) -> None:
    guessed, written = guesses
    assert run("init", "My Clicks.2024.csv", "--user", "uid", "--label", "y") == 0
    assert list(guessed[0].values()) == [Path("My Clicks.2024.csv"), {"user": "uid", "label": "y"}]
    assert list(written[0].values())[:2] == ["the guess", Path("data/my_clicks")]
    assert run("init", "log.parquet", "--out", "data/x") == 0
    assert list(guessed[1].values()) == [Path("log.parquet"), {}]
    assert list(written[1].values())[1] == Path("data/x")


RECIPE = """
from ctr_rec.schema.log import Feature, Kind, LogSchema, Side, Split, Vocabulary
SCHEMA = LogSchema(
    name="toy",
    features=(Feature(name="item_id", kind=Kind.CATEGORY, side=Side.ITEM, table="item"),),
    vocabularies=(Vocabulary(table="item"),), actions=("none",), labels=("clicked",),
)
SPLITS = {"default": Split(train_end=10, valid_end=20), "early": Split(train_end=5, valid_end=7, test_end=9)}
"""


@pytest.fixture
def data_recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "schema.py").write_text(RECIPE)
    (folder / "build.py").write_text("def read(raw):\n    raise AssertionError\n")
    return folder


def test_prepare_chooses_the_split(monkeypatch: pytest.MonkeyPatch, data_recipe: Path) -> None:
    calls = watch(monkeypatch, "ctr_rec.prepare.build", "prepare")
    words = ("prepare", data_recipe, "--raw", "raw", "--out", "out")
    assert run(*words) == 0
    assert run(*words, "--split", "early", "--overwrite") == 0
    assert run(*words, "--split", "3,4") == 0
    assert run(*words, "--split", "3,4,5", "--grow", "logs/old") == 0
    assert calls[0]["raw"] == Path("raw")
    assert calls[0]["out"] == Path("out")
    assert [c["overwrite"] for c in calls] == [False, True, False, False]
    assert [c["grow"] for c in calls] == [None, None, None, Path("logs/old")]
    assert [c["split"] for c in calls] == [
        None,
        "early",
        "3,4",
        "3,4,5",
    ]


def test_prepare_cuts_periods(monkeypatch: pytest.MonkeyPatch, data_recipe: Path) -> None:
    calls = watch(monkeypatch, "ctr_rec.prepare.periods", "prepare_periods")
    words = ("prepare", data_recipe, "--raw", "raw", "--out", "out", "--every", "7d", "--context", "512")
    assert run(*words, "--start", "2000-05-01") == 0
    assert (calls[0]["context"], calls[0]["grid"].every) == (512, "7d")
    assert (calls[0]["grid"].start, calls[0]["grid"].end) == ("2000-05-01", None)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--every", "1d"), "prepare --every needs --context"),
        (("--every", "1d", "--context", "3", "--grow", "a", "--overwrite"), "remove --grow and --overwrite"),
        (("--context", "3", "--end", "2000-05-01"), "--context and --end cut a log into periods; add --every 1d"),
    ],
)
def test_options_of_periods_go_together(
    words: tuple[str, ...], part: str, data_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("prepare", data_recipe, "--raw", "raw", "--out", "out", *words) == 2
    assert part in capsys.readouterr().err


def test_train_follows_days(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = watch(monkeypatch, "ctr_rec.train.follow", "follow", 3)
    words = ("train", "r.py:f", "--set", "a=1", "--run-dir", "runs/a", "--follow-days", "days", "--resume")
    assert run(*words) == 3
    assert list(calls[0].values()) == ["r.py:f", ["a=1"], Path("days"), Path("runs/a"), True]
    assert run(*words, "--grow") == 2
    assert "grows from period to period by itself; remove --grow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("split", "part"),
    [
        ("late", "has no split 'late'"),
        ("3,x", "expected a name or [TRAIN_START..]TRAIN_END,VALID_END[,TEST_END] as whole numbers"),
        ("3,x", "in the log's time unit, got '3,x'"),
        ("1,2,3,4", "got '1,2,3,4'"),
        ("5,4", "split 5,4: split ends must grow"),
    ],
)
def test_a_wrong_split_is_told(split: str, part: str, data_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare", data_recipe, "--raw", "raw", "--out", "out", "--split", split) == 2
    assert part in capsys.readouterr().err


def test_train_passes_overrides_and_returns_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = watch(monkeypatch, "ctr_rec.train.main", "train", 3)
    assert run("train", "r.py:f", "--set", "a=1", "--set", "b.c=x y", "--run-dir", "runs/a", "--resume") == 3
    assert list(calls[0].values()) == ["r.py:f", ["a=1", "b.c=x y"], Path("runs/a"), True, False]
    assert run("train", "r.py:f", "--run-dir", "runs/a", "--resume", "--grow") == 3
    assert list(calls[1].values()) == ["r.py:f", [], Path("runs/a"), True, True]


def test_a_warm_start_is_reported_or_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    reported = watch(monkeypatch, "ctr_rec.train.warm_start", "report_only")
    verified = watch(monkeypatch, "ctr_rec.evaluate.warm_start", "verify")
    assert run("warm-start", "r.py:din", "--set", "train.seed=3", "--dry-run") == 0
    assert run("warm-start", "verify", "runs/a") == 0
    assert reported == [{"recipe": "r.py:din", "overrides": ["train.seed=3"]}]
    assert verified == [{"target": "runs/a", "overrides": []}]


@pytest.mark.parametrize("words", [("r.py:din",), ("verify", "a", "--dry-run"), ("verify", "a", "b"), ("check", "a")])
def test_a_warm_start_without_a_question_is_refused(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("warm-start", *words) == 2
    assert "expected `warm-start RECIPE.py:FUNCTION --dry-run` or `warm-start verify TARGET`" in capsys.readouterr().err


def test_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = watch(monkeypatch, "ctr_rec.evaluate.main", "evaluate")
    assert run("evaluate", "runs/a", "--split", "valid", "--checkpoint", "step-7", "--log", "l") == 0
    assert list(calls[0].values()) == [Path("runs/a"), "valid", "step-7", Path("l"), None, "sequence"]
    assert run("evaluate", "runs/a") == 0
    assert list(calls[1].values()) == [Path("runs/a"), "test", "best", None, None, "sequence"]
    assert run("evaluate", "runs/a", "--branch", "beside") == 0
    assert calls.pop(2)["branch"] == "beside"
    assert run("evaluate", "runs/a", "--history", "64") == 0
    assert calls[2]["history"] == 64
    assert run("evaluate", "runs/a", "--history", "0") == 2


def test_predict_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = watch(monkeypatch, "ctr_rec.evaluate.main", "predict")
    assert run("predict", "runs/a", "--out", "p.parquet") == 0
    assert list(calls[0].values()) == [Path("runs/a"), Path("p.parquet"), "test", "best", None, None, None]
    assert run("predict", "runs/a", "--out", "p.parquet", "--history", "8") == 0
    assert calls[1]["history"] == 8


@pytest.mark.parametrize(("words", "size"), [((), 256), (("--micro-batch", "8"), 8)])
def test_predict_by_a_split_run(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], size: int) -> None:
    calls = watch(monkeypatch, "ctr_rec.evaluate.main", "predict")
    assert run("predict", "runs/a", "--out", "p.parquet", "--split-run", *words) == 0
    assert calls[0]["micro_batch"] == size


def test_predict_of_a_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = watch(monkeypatch, "ctr_rec.evaluate.counters", "score")
    assert run("predict", "--scorer", "counters7", "--log", "l", "--run-dir", "runs/c") == 0
    assert list(calls[0].values()) == ["counters7", Path("l"), Path("runs/c")]


@pytest.mark.parametrize(
    "words",
    [
        ("predict",),
        ("predict", "runs/a"),
        ("predict", "runs/a", "--out", "x", "--run-dir", "y"),
        ("predict", "runs/a", "--out", "x", "--micro-batch", "4"),
        ("predict", "--scorer", "counters7", "--log", "l", "--run-dir", "y", "--split-run"),
        ("predict", "--scorer", "counters7"),
        ("predict", "runs/a", "--scorer", "counters7", "--log", "l", "--run-dir", "y"),
        ("predict", "--scorer", "counters7", "--log", "l", "--run-dir", "y", "--split", "test"),
        ("predict", "--scorer", "counters7", "--log", "l", "--run-dir", "y", "--checkpoint", "last"),
        ("predict", "--scorer", "counters7", "--log", "l", "--run-dir", "y", "--history", "8"),
    ],
)
def test_predict_refuses_mixtures(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert "predict " in capsys.readouterr().err


def test_compare_takes_runs_lists_and_globs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = watch(monkeypatch, "ctr_rec.evaluate.compare", "compare_runs")
    for name in ("din-2", "din-1", "hstu-1", "hstu-2"):
        (tmp_path / name).mkdir()
    hstu = f"{tmp_path}/hstu-1,{tmp_path}/hstu-2"
    assert run("compare", f"{tmp_path}/din-*", hstu, "--split", "valid", "--out", "o") == 0
    assert [p.name for p in calls[0]["run_a"]] == ["din-1", "din-2"]
    assert [p.name for p in calls[0]["run_b"]] == ["hstu-1", "hstu-2"]
    assert (calls[0]["split"], calls[0]["out"]) == ("valid", Path("o"))
    assert run("compare", f"{tmp_path}/mlp-*", hstu) == 2
    assert "no run folder matches" in capsys.readouterr().err
    assert run("compare", f"{tmp_path}/din-3", hstu) == 2
    assert "din-3 does not exist" in capsys.readouterr().err


def test_doctor_passes_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = watch(monkeypatch, "ctr_rec.doctor", "examine", 1)
    assert run("doctor", "--recipe", "r.py:f", "--log", "l") == 1
    assert list(calls[0].values()) == ["r.py:f", Path("l"), Path(".")]


def test_bench_lists_or_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench") == 0
    assert "gauc         GAUC" in capsys.readouterr().out
    calls = watch(monkeypatch, "ctr_rec.bench", "run", [])
    assert run("bench", "din", "gauc", "--json", "--log", "l") == 0
    assert [list(c.values()) for c in calls] == [["din", True, Path("l")], ["gauc", True, Path("l")]]


def test_inspect_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = watch(monkeypatch, "ctr_rec.inspect.attention", "inspect_attention")
    words = ("--split", "test", "--checkpoint", "last", "--log", "l", "--out", "o", "--impressions", "7")
    assert run("inspect", "attention", "runs/a", *words) == 0
    assert list(calls[0].values()) == [Path("runs/a"), "test", "last", Path("l"), Path("o"), 7]
    assert run("inspect", "attention", "runs/a") == 0
    assert list(calls[1].values()) == [Path("runs/a"), "valid", None, None, None, 20_000]


@pytest.mark.parametrize(
    "words",
    [
        ("attention", "runs/a", "--check"),
        ("runs/a", "--split", "valid"),
        ("runs/a", "--impressions", "5"),
        ("attention", "a", "b"),
        ("a", "b"),
    ],
)
def test_inspect_refuses_what_has_no_effect(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", *words) == 2
    assert "inspect attention" in capsys.readouterr().err


def test_inspect_and_convert_pass_their_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = watch(monkeypatch, "ctr_rec.inspect", "describe")
    assert run("inspect", "s3://bucket/step-1", "--check", "--out", "plots") == 0
    assert looked == [{"path": "s3://bucket/step-1", "check": True, "out": Path("plots")}]
    converted = watch(monkeypatch, "ctr_rec.checkpoint.export", "convert")
    assert run("convert", "c", "--to", "parquet", "--out", "o", "--log", "l", "--rows-per-file", "9") == 0
    (call,) = converted
    assert {k: call[k] for k in ("path", "to", "out", "log", "rows_per_file")} == {
        "path": "c",
        "to": "parquet",
        "out": Path("o"),
        "log": "l",
        "rows_per_file": 9,
    }


def test_a_user_s_error_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, DataError("row 7 of a.parquet is cut short"))
    assert run("inspect", "x") == 2
    assert capsys.readouterr().err == "ctr-rec: error: row 7 of a.parquet is cut short (--debug shows where)\n"


@pytest.mark.parametrize("words", [("--debug", "inspect", "x"), ("inspect", "x", "--debug")])
def test_debug_brings_the_traceback(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    failing(monkeypatch, DataError("row 7"))
    with pytest.raises(DataError, match="row 7"):
        cli.main(list(words))


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, AssertionError("impossible"))
    with pytest.raises(AssertionError):
        cli.main(["inspect", "x"])


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert run("inspect", "x") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "ctr-rec: stopped by Ctrl-C"


def test_the_system_s_errors_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which sentence for which: test_sentences.py."""
    failing(monkeypatch, OSError(errno.ENOSPC, "Input/output error", "runs/a"))
    assert run("inspect", "x") == 1
    assert "the disk is full (runs/a); free some space" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, ModuleNotFoundError("No module named 'torchrec.x'", name="torchrec.x"))
    assert run("inspect", "x") == 1
    assert "the package torchrec is not installed; `make env` installs it" in capsys.readouterr().err


def test_a_missing_module_of_our_own_is_our_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ModuleNotFoundError("No module named 'ctr_rec.x'", name="ctr_rec.x"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["inspect", "x"])


@pytest.mark.parametrize(("rank", "agent", "speaks"), [("0", True, True), ("1", True, False), ("1", False, True)])
def test_one_rank_speaks_where_an_agent_speaks_for_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str, agent: bool, speaks: bool
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if agent:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    failing(monkeypatch, DataError("row 7"))
    assert run("inspect", "x") == 2
    assert bool(capsys.readouterr().err) is speaks
    assert run("train") == 2
    assert bool(capsys.readouterr().err) is speaks


def test_threads_of_torch_sleep_while_they_wait_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    run("--help")
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    run("--help")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
