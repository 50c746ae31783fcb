"""The command line. Every verb imports what it needs when it runs, so that help costs nothing.

Exit status: 0 done, 1 the machine is in the way (disk, missing package, doctor's errors), 2 the user can mend it
(bad option, recipe, data, checkpoint), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import click
from click.core import ParameterSource

from ctr_rec.errors import ConfigError, CtrRecError
from ctr_rec.sentences import fail, os_sentence, say, speaks
from ctr_rec.verbs import DEBUG, EVENTS, HELP, PATH, SPLIT, Verbs
from ctr_rec.verbs.content import content
from ctr_rec.verbs.scale import scale

USER_ERROR, INTERRUPTED = 2, 130


@click.group(cls=Verbs, context_settings=HELP)
@DEBUG
@click.version_option(package_name="ctr-rec", prog_name="ctr-rec")
def commands() -> None:
    """Click-through-rate models on jagged behaviour sequences, with sharded embedding tables.

    From a log of your own to a report: init, prepare, train, evaluate.
    """


@commands.command()
@click.argument("log", type=PATH)
@click.option("--out", type=PATH, help="Recipe folder to write; default data/<name of the log>.")
@click.option("--user", metavar="COL", help="Column of the user id, instead of the guess.")
@click.option("--item", metavar="COL", help="Column of the item id, instead of the guess.")
@click.option("--time", metavar="COL", help="Column of the time, instead of the guess.")
@click.option("--label", metavar="COL", help="Column of the label, instead of the guess.")
def init(log: Path, out: Path | None, user: str | None, item: str | None, time: str | None, label: str | None) -> int:
    """Look at a Parquet or CSV LOG, guess what its columns mean and write an editable data recipe."""
    from ctr_rec.prepare.guess import guess, write
    from ctr_rec.prepare.recipe import folder_name

    named = {"user": user, "item": item, "time": time, "label": label}
    found = guess(log, {role: column for role, column in named.items() if column is not None})
    write(found, out or Path("data") / folder_name(log))
    return 0


commands.add_command(content)


@commands.command()
@click.argument("recipe_dir", type=PATH)
@click.option("--raw", type=PATH, required=True, help="The raw log: a file, or a folder in the publisher's own layout.")
@click.option("--out", type=PATH, required=True, help="Folder of the prepared log.")
@click.option(
    "--split",
    help="Name of a split in the recipe, or [TRAIN_START..]TRAIN_END,VALID_END[,TEST_END] in the log's time unit; what "
    "lies at or before TRAIN_START is history only.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing prepared log once the new one is complete.")
@click.option("--grow", type=PATH, help="Prepared log whose table rows are kept; new ids get the rows behind them.")
@click.option("--content", "vectors", type=PATH, help="Parquet of item_id and vector: becomes item feature `content`.")
@click.option("--semantic-ids", metavar="3x256", help="With --content: residual k-means codes as item features.")
@click.option("--force", is_flag=True, help="With --content: also vectors learnt from times that the split scores.")
@click.option("--every", metavar="1d|7d|6h", help="One prepared log per period below --out, each grown from the last.")
@click.option("--context", type=int, help="With --every: events of a user kept before each period (layers x window).")
@click.option("--start", metavar="DATE", help="With --every: when the first period begins, UTC; default a midnight.")
@click.option("--end", metavar="DATE", help="With --every: when the log ends; default periods that it goes beyond.")
def prepare(
    recipe_dir: Path,
    raw: Path,
    out: Path,
    split: str | None,
    overwrite: bool,
    grow: Path | None,
    vectors: Path | None,
    semantic_ids: str | None,
    force: bool,
    every: str | None,
    context: int | None,
    start: str | None,
    end: str | None,
) -> int:
    """Turn raw files into typed Parquet, one row per user, and check what was written."""
    from ctr_rec.prepare.content import wanted_content

    joined = wanted_content(vectors, semantic_ids, force)
    if every is not None:
        useless = [n for n, given in (("--split", split), ("--grow", grow), ("--overwrite", overwrite)) if given]
        if useless or context is None:
            raise ConfigError(
                f"prepare --every needs --context{', and cuts and grows by itself: remove ' if useless else ''}"
                f"{' and '.join(useless)}"
            )
        from ctr_rec.prepare.periods import Grid, prepare_periods

        prepare_periods(recipe_dir, raw, out, Grid(every, start, end), context, joined)
        return 0
    useless = [n for n, given in (("--context", context), ("--start", start), ("--end", end)) if given is not None]
    if useless:
        raise ConfigError(f"prepare: {' and '.join(useless)} cut a log into periods; add --every 1d, or remove them")
    from ctr_rec.prepare.build import prepare as build

    build(recipe_dir, raw, out, split=split, overwrite=overwrite, grow=grow, content=joined)
    return 0


@commands.command()
@click.argument("recipe", metavar="RECIPE.py:FUNCTION")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; may be repeated.")
@click.option("--run-dir", type=PATH, required=True, help="Folder of the run; must be empty unless --resume.")
@click.option("--resume", is_flag=True, help="Continue the run in --run-dir from its last checkpoint.")
@click.option("--grow", is_flag=True, help="With --resume: the log (prepared with --grow) and recipe may have more.")
@click.option(
    "--follow-days", "periods", type=PATH, help="Folder of `prepare --every`: score each period, then train on it."
)
def train(
    recipe: str, overrides: tuple[str, ...], run_dir: Path, resume: bool, grow: bool, periods: Path | None
) -> int:
    """Train the model of a recipe; under torchrun, on all its ranks."""
    from ctr_rec.sharding.launch import recorded

    if periods is not None:
        if grow:
            raise ConfigError("train --follow-days grows from period to period by itself; remove --grow")
        from ctr_rec.train.follow import follow

        return recorded(lambda: follow(recipe, list(overrides), periods, run_dir, resume))
    from ctr_rec.train.main import train as run

    return recorded(lambda: run(recipe, list(overrides), run_dir, resume, grow))


@commands.command(name="warm-start")
@click.argument("words", nargs=-1, required=True, metavar="[verify] TARGET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Only print which rows would be matched; reads ids, writes nothing.")
def warm_start(words: tuple[str, ...], overrides: tuple[str, ...], dry_run: bool) -> int:
    """Look at a warm start before training: --dry-run reports its match, verify scores one batch with both models.

    TARGET is RECIPE.py:FUNCTION, or for verify also a run folder. The warm start itself is part of `train`.
    """
    if len(words) == 2 and words[0] == "verify" and not dry_run:
        from ctr_rec.evaluate.warm_start import verify

        verify(words[1], list(overrides))
        return 0
    if len(words) != 1 or not dry_run:
        raise ConfigError(
            "expected `warm-start RECIPE.py:FUNCTION --dry-run` or `warm-start verify TARGET`; `train` itself starts "
            "warm when the recipe says so"
        )
    from ctr_rec.train.warm_start import report_only

    report_only(words[0], list(overrides))
    return 0


@commands.command()
@click.argument("run_dir", type=PATH)
@click.option("--split", type=SPLIT, default="test", show_default=True)
@click.option("--checkpoint", default="best", show_default=True, help="best, last or step-N.")
@click.option("--log", type=PATH, help="Prepared log, instead of the one the run was trained on.")
@click.option("--history", type=EVENTS, help="Give each impression its newest visible events alone, so many.")
@click.option("--branch", type=click.Choice(["beside"]), help="Score the network that was trained beside the model.")
def evaluate(
    run_dir: Path, split: str, checkpoint: str, log: Path | None, history: int | None, branch: str | None
) -> int:
    """Score a split, write predictions, metrics and report.html into the run, print a table."""
    from ctr_rec.evaluate.main import evaluate as run
    from ctr_rec.models.ranker import Branch
    from ctr_rec.sharding.launch import recorded

    settings = {"split": split, "checkpoint": checkpoint, "log": log, "history": history}
    return recorded(lambda: _done(lambda: run(run_dir, **settings, branch=Branch(branch or "sequence"))))


@commands.command()
@click.argument("run_dir", type=PATH, required=False)
@click.option("--out", type=PATH, help="Parquet file of predictions to write.")
@click.option("--split", type=SPLIT, default="test", show_default=True)
@click.option("--checkpoint", default="best", show_default=True, help="best, last or step-N.")
@click.option("--log", type=PATH, help="Prepared log, instead of the one the run was trained on.")
@click.option("--history", type=EVENTS, help="Give each impression its newest visible events alone, so many.")
@click.option(
    "--scorer", type=click.Choice(["item_mean", "counters2", "counters7"]), help="A scorer without a network instead."
)
@click.option("--run-dir", "new_run", type=PATH, help="With --scorer: the run folder to write.")
@click.option("--split-run", is_flag=True, help="Score users' kept states as a service would; say how exact that is.")
@click.option("--micro-batch", type=click.IntRange(min=1), help="With --split-run: candidates at a time; default 256.")
def predict(
    run_dir: Path | None,
    out: Path | None,
    split: str,
    checkpoint: str,
    log: Path | None,
    history: int | None,
    scorer: str | None,
    new_run: Path | None,
    split_run: bool,
    micro_batch: int | None,
) -> int:
    """Write the logit of every impression of a split: of a run, or of a simple scorer (--scorer)."""
    if micro_batch is not None and not split_run:
        raise ConfigError("predict --micro-batch belongs to --split-run; add that, or remove it")
    if scorer is not None:
        if split_run:
            raise ConfigError("predict --split-run is of a run's tower; --scorer has none")
        if log is None or new_run is None or run_dir is not None or out is not None:
            raise ConfigError("predict --scorer takes --log and --run-dir, and neither RUN_DIR nor --out")
        useless = _given("split", "checkpoint", "history")
        if useless:
            raise ConfigError(
                "predict --scorer scores validation and test, and has no checkpoint or history; remove "
                f"{' and '.join(useless)}"
            )
        from ctr_rec.evaluate.counters import score

        score(scorer, log, new_run)
        return 0
    if run_dir is None or out is None or new_run is not None:
        raise ConfigError("predict expects RUN_DIR and --out FILE, or --scorer with --log and --run-dir")
    from ctr_rec.evaluate.main import predict as run

    if split_run and history is not None:
        raise ConfigError("predict --split-run scores users' whole states; remove it or --history")
    batch = (micro_batch or 256) if split_run else None
    run(run_dir, out, split=split, checkpoint=checkpoint, log=log, history=history, micro_batch=batch)
    return 0


@commands.command()
@click.argument("run_a")
@click.argument("run_b")
@click.option("--split", type=SPLIT, default="test", show_default=True)
@click.option("--out", type=PATH, help="Folder for the plot and the figures as JSON.")
def compare(run_a: str, run_b: str, split: str, out: Path | None) -> int:
    """Paired difference RUN_B - RUN_A with intervals clustered by user.

    Each side is a run folder, or several (seeds) as a comma list or a quoted glob.
    """
    from ctr_rec.evaluate.compare import compare_runs
    from ctr_rec.evaluate.folders import run_folders

    compare_runs(run_folders(run_a), run_folders(run_b), split, out=out)
    return 0


commands.add_command(scale)


@commands.command()
@click.argument("words", nargs=-1, required=True, metavar="[attention|blocks] PATH")
@click.option("--check", is_flag=True, help="Of a checkpoint: compare every file with its size and checksum.")
@click.option("--out", type=PATH, help="Folder for plots.")
@click.option("--split", type=click.Choice(["valid", "test"]), default="valid", show_default=True, help="Of a run.")
@click.option("--checkpoint", help="Of a run: best (default), last or step-N.")
@click.option("--log", type=PATH, help="Of a run: prepared log, instead of the one the run was trained on.")
@click.option("--impressions", type=click.IntRange(min=1), default=20_000, show_default=True, help="Of a run.")
def inspect(
    words: tuple[str, ...],
    check: bool,
    out: Path | None,
    split: str,
    checkpoint: str | None,
    log: Path | None,
    impressions: int,
) -> int:
    """Say what PATH is: a prepared log, a run folder or a checkpoint (any DCP folder), and what is in it.

    Of a run or its checkpoint, `attention PATH` says where GRAB looks, `blocks PATH` what full attention's blocks do.
    """
    if len(words) == 2 and words[0] in ("attention", "blocks"):
        if check:
            raise ConfigError(f"inspect {words[0]} checks no files; remove --check, or inspect the checkpoint itself")
        from ctr_rec.inspect import attention, blocks

        draw = {"attention": attention.inspect_attention, "blocks": blocks.inspect_blocks}[words[0]]
        draw(Path(words[1]), split, checkpoint, log, out, impressions)
        return 0
    useless = _given("split", "checkpoint", "log", "impressions")
    if len(words) != 1 or useless:
        raise ConfigError(
            f"expected `inspect PATH` or `inspect attention|blocks PATH`, got: inspect {' '.join([*words, *useless])}"
        )
    from ctr_rec.inspect import describe

    describe(words[0], check=check, out=out)
    return 0


@commands.command()
@click.argument("checkpoint")
@click.option("--to", "form", type=click.Choice(["safetensors", "parquet"]), required=True)
@click.option("--out", type=PATH, required=True, help="New folder for the files.")
@click.option("--log", help="Prepared log whose ids go beside the rows (parquet); default the run's own.")
@click.option("--rows-per-file", type=click.IntRange(min=1), help="Cut a table's Parquet into part files.")
def convert(
    checkpoint: str, form: Literal["safetensors", "parquet"], out: Path, log: str | None, rows_per_file: int | None
) -> int:
    """Write the tables and dense weights of a CHECKPOINT (any DCP folder) for other tools, in bounded memory."""
    from ctr_rec.checkpoint.export import convert as run

    run(checkpoint, form, out, log, rows_per_file, lambda sentence: click.echo(sentence))
    return 0


@commands.command()
@click.option("--recipe", metavar="RECIPE.py:FUNCTION", help="Do the tables of this recipe fit into this machine?")
@click.option("--log", type=PATH, help="Prepared log: of the recipe, instead of its own, or alone, at default widths.")
@click.option("--run-dir", type=PATH, default=Path("."), help="Where runs are to be written; default here.")
def doctor(recipe: str | None, log: Path | None, run_dir: Path) -> int:
    """Say in plain sentences whether training can work here; exit status 1 when it cannot."""
    from ctr_rec.doctor import examine

    return examine(recipe, log, run_dir)


@commands.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line instead of a table.")
@click.option("--log", type=PATH, help="Prepared log to measure on, where a bench can use one.")
def bench(names: tuple[str, ...], as_json: bool, log: Path | None) -> int:
    """Measure; without a NAME, list what can be measured."""
    from ctr_rec.bench import listing, run

    if not names:
        for name, sentence in listing().items():
            click.echo(f"{name:12s} {sentence}")
        return 0
    for name in names:
        run(name, as_json, log)
    return 0


def _given(*options: str) -> list[str]:
    """Those options of the verb that the user wrote down."""
    source = click.get_current_context().get_parameter_source
    return [f"--{name}" for name in options if source(name) is not ParameterSource.DEFAULT]


def _done(action: Callable[[], None]) -> int:
    action()
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ctr-rec` and of `python -m ctr_rec`. Raises SystemExit with the exit status."""
    # A thread of torch that spins while it waits takes its core from the reader's threads and from other processes:
    # on two busy cores a training step took three times as long. Read when torch is loaded, so it is set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(arguments))


def _run(arguments: list[str]) -> int:
    # Read from the words themselves, because an error while parsing must obey the flag too.
    debug = "--debug" in arguments
    try:
        result = commands.main(args=arguments, prog_name="ctr-rec", standalone_mode=False)
    except click.ClickException as error:
        if speaks():
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("stopped by Ctrl-C")
        return INTERRUPTED
    except CtrRecError as error:
        if debug:
            raise
        from ctr_rec.sharding.launch import leave_sentence

        leave_sentence(error)
        return fail(str(error), USER_ERROR)
    except ModuleNotFoundError as error:
        root = (error.name or "").partition(".")[0]
        if debug or root in ("", "ctr_rec"):
            raise
        return fail(f"the package {root} is not installed; `make env` installs it, `ctr-rec doctor` says more", 1)
    except OSError as error:
        if debug or error.errno is None:
            raise
        return fail(os_sentence(error), 1)
    return result if isinstance(result, int) else 0
