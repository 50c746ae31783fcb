"""Bad input as a user meets it: through the command line, one sentence that helps, and nothing lost that was there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from ctr_rec.cli import main
from ctr_rec.prepare.write import PartWriter
from tests.batch.logs import random_users, write_log
from tests.prepare.logs import write_shop

EVENTS, ITEMS = "events/part-00000.parquet", "items/items.parquet"
TRAIN = ("train", "data/shop/recipe.py:din", "--run-dir")
SHORT = ("--set", "train.epochs=1", "--set", "train.threads=1", "--set", "data.workers=0")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw/shop.csv, its recipe, its prepared log, and a run with checkpoints at steps 2 and 4."""
    root, before = tmp_path_factory.mktemp("shop"), Path.cwd()
    os.chdir(root)
    try:
        (root / "raw").mkdir()
        write_shop(root / "raw" / "shop.csv", rows=600)
        done("init", "raw/shop.csv", "--out", "data/shop")
        done("prepare", "data/shop", "--raw", "raw", "--out", "logs/shop")
        done(*TRAIN, "runs/shop", *SHORT, "--set", "train.max_steps=4", "--set", "checkpoint.every=2")
    finally:
        os.chdir(before)
    return root


@pytest.fixture
def shop(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil; the working folder."""
    shutil.copytree(made, tmp_path / "shop")
    monkeypatch.chdir(tmp_path / "shop")
    return tmp_path / "shop"


def status(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def done(*words: str) -> None:
    assert status(*words) == 0, words


def refused(capsys: Capture, *words: str, code: int = 2) -> str:
    """The one sentence of a refusal; all files that were there are there as they were."""
    before = files(Path())
    capsys.readouterr()
    assert status(*words) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    sentences = [line for line in error.splitlines() if line.startswith("ctr-rec: error: ")]
    assert len(sentences) == 1, error
    after = files(Path())
    lost = [path for path, content in before.items() if after.get(path) != content]
    assert not lost, "a refusal changes nothing that was written"
    return sentences[0].removeprefix("ctr-rec: error: ").removesuffix(" (--debug shows where)")


def files(folder: Path) -> dict[Path, bytes]:
    """What must outlive a refusal: logs, recipes, and of runs all but the log lines and marks of a run in progress."""
    moving = ("clean-stop.json", "config.json", "environment.json", "inputs.json", "plan.json", "metrics.jsonl")
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in moving and "tensorboard" not in path.parts and path.suffix != ".pyc"
    }


def holds(sentence: str, *parts: str) -> None:
    for part in parts:
        assert part in sentence, sentence


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def with_value(column: str, row: int, position: int | None, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table.column(column).to_pylist()
        if position is None:
            values[row] = value
        else:
            values[row][position] = value
        field = table.schema.field(column)
        return table.set_column(table.column_names.index(column), field, pa.array(values, field.type))

    return change


def as_text(table: pa.Table) -> pa.Table:
    at = table.column_names.index("price")
    return table.set_column(at, pa.field("price", pa.string()), table.column("price").cast(pa.string()))


AGAIN = "run `ctr-rec prepare` again"
STORED = {
    "missing column": (EVENTS, lambda t: t.drop_columns(["channel"]), ["has no column 'channel'", "it has user"]),
    "wrong type": (ITEMS, as_text, ["column 'price'", "expected float32, got string"]),
    "label": (
        EVENTS,
        with_value("label_outcome", 1, 2, 2),
        ["'label_outcome'", "row 1, position 2", "0 or 1", "got 2"],
    ),
    "NaN": (ITEMS, with_value("price", 3, None, float("nan")), ["'price'", "row 3", "expected", "got nan"]),
    "id": (ITEMS, with_value("category_name", 3, None, 9), ["'category_name'", "row 3", "0 to 3", "got 9"]),
    "item": (EVENTS, with_value("item", 1, 2, 99), ["column 'item'", "row 1, position 2", "0 to 59", "got 99"]),
    "unsorted": (
        EVENTS,
        with_value("time", 1, 2, 1),
        ["column 'time'", "row 1, position 2", "do not go back", "got 1"],
    ),
    "empty user": (EVENTS, with_value("time", 1, None, []), ["the manifest says 40 users and", "the file has 40 and"]),
}


@pytest.mark.parametrize("case", STORED)
def test_a_damaged_log_is_refused_by_training_and_evaluation(shop: Path, capsys: Capture, case: str) -> None:
    file, change, parts = STORED[case]
    rewrite(shop / "logs/shop" / file, change)
    holds(refused(capsys, *TRAIN, "runs/new", *SHORT), f"logs/shop/{file}", AGAIN, *parts)
    if case != "label":  # of an event in the training range, which evaluation does not read
        holds(refused(capsys, "evaluate", "runs/shop"), f"logs/shop/{file}", AGAIN, *parts)


@pytest.mark.parametrize("file", [EVENTS, ITEMS, "manifest.json"])
@pytest.mark.parametrize("size", [0, 300])
def test_an_empty_or_truncated_file_is_refused(shop: Path, capsys: Capture, file: str, size: int) -> None:
    path = shop / "logs/shop" / file
    path.write_bytes(path.read_bytes()[:size])
    sentence = refused(capsys, *TRAIN, "runs/new", *SHORT)
    if file.endswith("json"):
        holds(sentence, "logs/shop/manifest.json: invalid JSON", "prepare the log again")
    else:
        holds(sentence, f"logs/shop/{file}: expected a complete Parquet file, got {size} bytes", AGAIN)


def test_users_without_events_are_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    users = random_users(seed=6, count=15)
    users[7]["events"] = []
    manifest = write_log(tmp_path / "log", [{"user_id": "first", "events": []}, *users])
    (tmp_path / "r.py").write_text(
        "from pathlib import Path\nfrom tests.train.runs import small_run\n"
        "def small():\n    return small_run(Path('log'), epochs=1)\n"
    )
    done("train", "r.py:small", "--run-dir", "run")
    done("evaluate", "run")
    assert pq.read_table(tmp_path / "run/predictions/test.parquet").num_rows == manifest.impressions[2]


RECIPE = """
from ctr_rec.schema.log import Feature, Kind, LogSchema, Side, Split
SCHEMA = LogSchema(
    name="own", actions=("no", "yes"), labels=("click",), vocabularies=(),
    features=(Feature(name="price", kind=Kind.NUMBER, side=Side.EVENT),),
)
SPLIT = Split(train_end=19, valid_end=24)
"""
READ = """
import polars as pl
from ctr_rec.prepare.raw import RawLog
def read(raw):
    return RawLog(events=pl.scan_parquet(raw), sources=(raw,))
"""
N = 30
RAW: dict[str, tuple[dict[str, list], list[str]]] = {
    "missing column": ({"price": []}, ["column 'price' is missing", "got user_id, item_id", "build.py"]),
    "wrong type": ({"price": ["x"] * N}, ["'price' has type String", "expected a number", "cast it in"]),
    "label": ({"label_click": [*[1] * 8, 2, *[0] * 21]}, ["'label_click'", "row 9", "0 or 1", "got 2"]),
    "NaN": ({"price": [*[1.0] * 6, float("nan"), *[1.0] * 23]}, ["'price'", "row 7", "finite", "nan"]),
    "no user": ({"user_id": [*[1] * 8, None, *[0] * 21]}, ["'user_id'", "row 9", "a value"]),
    "no events": ({"*": []}, ["expected at least one event, got an empty file"]),
}


def write_raw(path: Path, **columns: list) -> None:
    data: dict[str, list] = {name: [k % size for k in range(N)] for name, size in (("user_id", 3), ("item_id", 5))}
    data |= {"time": list(range(N)), "action": [k % 2 for k in range(N)], "label_click": [k % 2 for k in range(N)]}
    data |= {"price": [1.0 * k for k in range(N)], **columns}
    frame = pl.DataFrame({name: values for name, values in data.items() if values}, strict=False)
    (frame.head(0) if "*" in columns else frame).write_parquet(path)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe by hand over a Parquet file, and its prepared log."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/schema.py").write_text(RECIPE)
    (tmp_path / "data/build.py").write_text(READ)
    write_raw(tmp_path / "raw.parquet")
    done("prepare", "data", "--raw", "raw.parquet", "--out", "log")
    return tmp_path


@pytest.mark.parametrize("case", RAW)
def test_a_bad_raw_log_is_refused_and_the_old_log_stays(own: Path, capsys: Capture, case: str) -> None:
    columns, parts = RAW[case]
    write_raw(own / "raw.parquet", **columns)
    sentence = refused(capsys, "prepare", "data", "--raw", "raw.parquet", "--out", "log", "--overwrite")
    holds(sentence, "raw.parquet", *parts)
    assert sorted(p.name for p in own.iterdir()) == ["data", "log", "raw.parquet"], "nothing half-made is left"


def test_a_raw_file_that_is_empty_cut_short_or_lacks_a_column(shop: Path, capsys: Capture) -> None:
    prepare = ("prepare", "data/shop", "--raw", "raw/shop.csv", "--out", "logs/shop", "--overwrite")
    text = (shop / "raw/shop.csv").read_text()
    (shop / "raw/shop.csv").write_text(text.replace("channel", "way", 1))
    holds(refused(capsys, *prepare), "shop.csv: column 'channel' is missing; it has row", "build.py")
    (shop / "raw/shop.csv").write_text("")
    for words in (prepare, ("init", "raw/shop.csv", "--out", "data/new")):
        holds(refused(capsys, *words), "raw/shop.csv: the file is empty; expected a CSV or Parquet table")
    whole = (shop / "logs/shop" / EVENTS).read_bytes()
    (shop / "raw/cut.parquet").write_bytes(whole[: len(whole) // 2])
    holds(refused(capsys, "init", "raw/cut.parquet"), "raw/cut.parquet: cannot be read", "is it a whole")


def other_log(shop: Path, schema: bool) -> None:
    """logs/other: the same columns of fewer rows, or a schema whose price is no longer taken by its logarithm."""
    shutil.copytree(shop / "data/shop", shop / "data/other")
    text = (shop / "data/other/schema.py").read_text()
    assert "log1p=True" in text
    (shop / "data/other/schema.py").write_text(text.replace(", log1p=True", "") if schema else text)
    lines = (shop / "raw/shop.csv").read_text().splitlines(keepends=True)
    (shop / "raw/shop.csv").write_text("".join(lines if schema else lines[:-5]))
    done("prepare", "data/other", "--raw", "raw", "--out", "logs/other")


def test_a_log_of_another_schema_or_content_is_refused(shop: Path, capsys: Capture) -> None:
    other_log(shop, schema=True)
    sentence = refused(capsys, "evaluate", "runs/shop", "--log", "logs/other")
    holds(sentence, "feature 'price': the model was made for", "'log1p': True", "the log 'shop' has", "'log1p': False")
    resume = (*TRAIN, "runs/shop", *SHORT, "--set", "checkpoint.every=2", "--resume", "--set", "data.log=logs/other")
    holds(refused(capsys, *resume), "trained on data with fingerprint", "the data changed", "start a new run")


def test_content_that_changed_behind_a_run_is_refused(shop: Path, capsys: Capture) -> None:
    other_log(shop, schema=False)
    shutil.rmtree(shop / "logs/shop")
    (shop / "logs/other").rename(shop / "logs/shop")
    holds(refused(capsys, "evaluate", "runs/shop"), "fingerprint", "the data changed", "or say --log logs/shop")
    resume = (*TRAIN, "runs/shop", *SHORT, "--set", "checkpoint.every=2", "--resume")
    holds(refused(capsys, *resume), "fingerprint", "the data changed", "resume on the log of the run")


def test_a_checkpoint_without_manifest_is_none(shop: Path, capsys: Capture) -> None:
    resume = (*TRAIN, "runs/shop", *SHORT, "--set", "checkpoint.every=2", "--resume")
    checkpoints = shop / "runs/shop/checkpoints"
    (checkpoints / "step-00000004/manifest.json").unlink()
    holds(refused(capsys, "evaluate", "runs/shop", "--checkpoint", "step-4"), "has no checkpoint 'step-4'", "step-2")
    holds(refused(capsys, "inspect", str(checkpoints / "step-00000004")), "no manifest.json", "never finished")
    done(*resume)
    shutil.rmtree(checkpoints)
    holds(
        refused(capsys, "evaluate", "runs/shop", "--checkpoint", "last"), "has no whole checkpoint", "start a new run"
    )


@pytest.mark.parametrize("file", ["*.distcp", ".metadata", "rank-00000.npz", "manifest.json"])
def test_a_truncated_checkpoint_is_refused_with_the_way_back(shop: Path, capsys: Capture, file: str) -> None:
    path = next((shop / "runs/shop/checkpoints/step-00000004").glob(file))
    path.write_bytes(path.read_bytes()[:-20])
    holds(refused(capsys, "evaluate", "runs/shop", "--checkpoint", "last"), path.name, "copy the checkpoint again")
    resume = (*TRAIN, "runs/shop", *SHORT, "--set", "checkpoint.every=2", "--resume")
    holds(refused(capsys, *resume), path.name, "remove runs/shop/checkpoints/step-00000004 and resume", "step-00000002")
    shutil.rmtree(path.parent)
    done(*resume)


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some/file")


def test_a_full_disk_loses_nothing(shop: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    resume = (*TRAIN, "runs/shop", *SHORT, "--set", "checkpoint.every=2", "--resume")
    with monkeypatch.context() as patch:
        patch.setattr(FileSystemWriter, "write_data", full)
        holds(refused(capsys, *resume), "No space left on device", "free space", "earlier checkpoints are untouched")
    with monkeypatch.context() as patch:
        patch.setattr(PartWriter, "write", full)
        prepare = ("prepare", "data/shop", "--raw", "raw", "--out", "logs/shop", "--overwrite")
        holds(refused(capsys, *prepare), "logs/shop cannot be written: the disk is full", "nothing else was changed")
    with monkeypatch.context() as patch:
        patch.setattr("ctr_rec.evaluate.predictions.pq.write_table", full)
        holds(refused(capsys, "evaluate", "runs/shop", code=1), "the disk is full (some/file)", "free some space")
    done(*resume)
    done("evaluate", "runs/shop")


def test_an_unwritable_place_is_refused(shop: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    file = "raw/shop.csv"
    holds(refused(capsys, *TRAIN, file), f"run folder {file}: expected a folder, got a file; choose another --run-dir")
    holds(refused(capsys, *TRAIN, f"{file}/run"), "cannot be made or read: Not a directory; choose another --run-dir")
    holds(refused(capsys, "prepare", "data/shop", "--raw", "raw", "--out", f"{file}/log"), "cannot be written", "check")
    columns = ("--user", "Customer No", "--item", "Product!")
    holds(refused(capsys, "init", file, "--out", f"{file}/data", *columns), f"{file}/data cannot be written", "--out")
    # Who runs the tests may be allowed to write anywhere; the answer of the system is what counts.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    holds(refused(capsys, *TRAIN, "runs/new"), "run folder runs/new is not writable; choose another --run-dir")


@pytest.mark.parametrize(
    ("place", "part"),
    [
        ({"RANK": "0"}, "RANK set without WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 with WORLD_SIZE=2: expected a rank below"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE='two': expected a whole number of at least 1"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "4"}, "LOCAL_WORLD_SIZE=4, WORLD_SIZE=2"),
    ],
)
def test_a_wrong_world_is_refused(
    shop: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, place: dict[str, str], part: str
) -> None:
    if "WORLD_SIZE" in place:
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", **place}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    holds(refused(capsys, *TRAIN, "runs/new", *SHORT), part, "per node" if "LOCAL" in part else "--nproc-per-node N")
    assert not (shop / "runs/new").exists()


def test_a_recipe_that_raises_is_named(shop: Path, capsys: Capture) -> None:
    (shop / "r.py").write_text("def din():\n    raise KeyError('nope')\n")
    holds(refused(capsys, "train", "r.py:din", "--run-dir", "runs/new"), "recipe r.py:din raises KeyError: 'nope'")
    (shop / "broken.py").write_text("import nowhere_at_all\n")
    sentence = refused(capsys, "train", "broken.py:din", "--run-dir", "runs/new")
    holds(sentence, "broken.py raises ModuleNotFoundError when loaded: No module named 'nowhere_at_all'")
    (shop / "data/shop/build.py").write_text("def read(raw):\n    raise ValueError('no such luck')\n")
    sentence = refused(capsys, "prepare", "data/shop", "--raw", "raw", "--out", "logs/shop", "--overwrite")
    holds(sentence, "data/shop/build.py: read(raw) raises ValueError: no such luck; mend the recipe")
    assert not (shop / "runs/new").exists()
