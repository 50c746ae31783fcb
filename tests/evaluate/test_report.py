import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ctr_rec.errors import DataError
from ctr_rec.evaluate import main
from ctr_rec.evaluate.report import context, read_folder, write_report
from tests.evaluate.runs import make_log, train_alone, two_channel_run

VOID = {"meta", "br", "link", "img", "hr", "input"}


class _Page(HTMLParser):
    """Whether tags close in order, what is loaded from outside, and how many drawings there are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.drawings = 0
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.drawings += tag == "svg"
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.outside.append(f"{tag} {name}={value}")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return train_alone(two_channel_run(make_log(folder / "log")), folder / "run")


@pytest.fixture(scope="module")
def scored(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("scored") / "run"))
    main.evaluate(run, "valid")
    main.evaluate(run, "test")
    return run


def _text(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]+>", " ", page, flags=re.S))


def test_a_whole_page_shows_every_part_and_loads_nothing(scored: Path) -> None:
    content = write_report(scored).read_text()
    page = _Page(content)
    assert page.outside == []
    assert "url(http" not in content
    assert "@import" not in content
    # Training, throughput, and for each split two slices and calibration.
    assert page.drawings == 2 + 2 * 3
    text = _text(content)
    for word in (
        "Training",
        "Throughput",
        "Table placement",
        "Quality on test",
        "Quality on valid",
        "Calibration on test",
        "By history length",
        "By item",
        "dense parameters",
        "table parameters",
        "MFLOP",
        "torchrec",
        "buffer_row_groups",
        "test range scored 1 time",
    ):
        assert word in text, word
    assert "Absent" not in text


def test_figures_on_the_page_are_those_of_the_files(scored: Path) -> None:
    text = _text(write_report(scored).read_text())
    metrics = json.loads((scored / "metrics" / "test.json").read_text())["metrics"]
    for key in ("auc", "gauc", "logloss", "ne", "calibration"):
        assert f"{key} {metrics[key]:.5f}" in text


def test_absent_parts_name_the_command_that_makes_them(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    for name in ("metrics.jsonl", "plan.json", "environment.json", "clean-stop.json"):
        (run / name).unlink()
    content = write_report(run).read_text()
    _Page(content)
    text = _text(content)
    assert "not ended in order" in text
    assert f"not scored yet: ctr-rec evaluate {run} --split test" in text
    assert f"cost not counted yet: ctr-rec evaluate {run}" in text
    assert "no metrics.jsonl" in text
    assert "no plan.json" in text
    assert "Absent: environment.json" in text


def test_an_empty_folder_still_gives_a_page(tmp_path: Path) -> None:
    _Page(write_report(tmp_path).read_text())


def test_warnings_speak_when_figures_are_worth_less(scored: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(scored, tmp_path / "run"))
    metrics = json.loads((run / "metrics" / "test.json").read_text())
    metrics["metrics"]["calibration"] = 1.4
    metrics["step"] = 4
    (run / "metrics" / "test.json").write_text(json.dumps(metrics))
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    (run / "checkpoints" / "best.json").write_text(json.dumps({**best, "value": best["value"] + 0.1}))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    slow = [{**line, "data_wait_share": 0.5} if line["kind"] == "train" else line for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in slow))
    warnings = " | ".join(context(read_folder(run))["warnings"])
    for words in (
        "test: predictions are 1.40 times the observed rate",
        "test was scored at step 4, the best checkpoint is of step 6",
        "is 0.1000 behind the best: the model over-fits",
        "waited for data 50% of the time",
        "GAUC rests on",
    ):
        assert words in warnings, words


def test_names_are_escaped(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "name": "<script>alert(1)</script>"}))
    assert "<script" not in write_report(run).read_text()


def test_a_log_line_cut_short_is_left_out(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    whole = read_folder(run).lines
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    assert read_folder(run).lines == whole


@pytest.mark.parametrize(("content", "words"), [("{", "expected JSON"), ("[1]", "expected a JSON object, got list")])
def test_a_damaged_file_is_named(trained: Path, tmp_path: Path, content: str, words: str) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "plan.json").write_text(content)
    with pytest.raises(DataError, match=rf"plan\.json: {words}.*restore or remove it"):
        write_report(run)
    assert not (run / "report.html").exists()
