"""Every judgement of the doctor, over facts made up for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ctr_rec import doctor
from ctr_rec.doctor import ERROR, GIB, NEEDED, OK, OPTIONAL, WARNING, Facts, Finding, Tables, diagnose
from ctr_rec.schema.log import Feature, Kind, LogSchema, Side, Split, Vocabulary
from ctr_rec.schema.manifest import LogManifest, TableInfo

TRIPLE = {"torch": "2.13.0+cpu", "fbgemm-gpu-cpu": "1.8.0", "torchrec": "1.8.0"}
WELL = Facts(
    python=(3, 11),
    versions={**dict.fromkeys((*NEEDED, *OPTIONAL), "1.0"), **TRIPLE},
    probe_error=None,
    machine="x86_64",
    cpu_flags=frozenset({"avx2", "avx512f"}),
    gpus=("H200",),
    memory_free=64 * GIB,
    disk_free=500 * GIB,
    run_dir=Path("runs"),
    run_dir_writable=True,
    threads="2",
    cores=4,
)


def without(*names: str) -> dict[str, str]:
    return {k: v for k, v in WELL.versions.items() if k not in names}


def tables(gib: float) -> Tables:
    return Tables("recipe.py:din", {"item": int(gib * GIB), "user": 1000})


CASES = {
    "old python": ({"python": (3, 9)}, ERROR, "Python 3.9 is not supported"),
    "new python": ({"python": (3, 13)}, ERROR, "Python 3.10, 3.11 or 3.12"),
    "missing package": ({"versions": without("polars")}, ERROR, "Missing packages: polars; `make env`"),
    "missing optional": ({"versions": without("torchx")}, WARNING, "torchx is not installed; launching on a cluster"),
    "no torch": ({"versions": without("torch")}, ERROR, "torch is not installed"),
    "no fbgemm": ({"versions": without("fbgemm-gpu-cpu")}, ERROR, "torch 2.13.0+cpu needs fbgemm 1.8 and torchrec 1.8"),
    "no torchrec": ({"versions": without("torchrec")}, ERROR, "torchrec is not installed"),
    "two fbgemm": ({"versions": {**WELL.versions, "fbgemm-gpu": "1.8.0"}}, ERROR, "overwrite each other"),
    "one wrong": (
        {"versions": {**WELL.versions, "torchrec": "1.7.0"}},
        ERROR,
        "torchrec 1.7.0 does not belong to torch 2.13.0+cpu; it needs fbgemm 1.8 and torchrec 1.8.",
    ),
    "both wrong": (
        {"versions": {**WELL.versions, "torch": "2.12.1"}},
        ERROR,
        "fbgemm-gpu-cpu 1.8.0 and torchrec 1.8.0 do not belong to torch 2.12.1; it needs fbgemm 1.7 and torchrec 1.7.",
    ),
    "strange version": (
        {"versions": {**WELL.versions, "torchrec": "nightly"}},
        ERROR,
        "torchrec nightly does not belong",
    ),
    "cpu build with gpu": ({}, WARNING, "fbgemm-gpu-cpu has no kernels for it"),
    "probe": ({"probe_error": "ImportError: undefined symbol: x"}, ERROR, "undefined symbol: x."),
    "other processor": ({"machine": "aarch64"}, WARNING, "The processor is aarch64"),
    "unread processor": ({"cpu_flags": None}, WARNING, "could not be read"),
    "no avx2": ({"cpu_flags": frozenset({"sse"})}, ERROR, "no AVX2"),
    "avx2 only": ({"cpu_flags": frozenset({"avx2"})}, OK, "The processor has AVX2, 4 cores"),
    "no gpu": ({"gpus": ()}, WARNING, "No GPU that torch can use"),
    "unread memory": ({"memory_free": None}, WARNING, "free memory could not be read"),
    "little memory": ({"memory_free": GIB}, WARNING, "Only 1.0 GiB of memory are free; a training process"),
    "tables too large": (
        {"tables": tables(65)},
        ERROR,
        "Only 64.0 GiB of memory are free, but the tables of recipe.py:din take 65.0 GiB over all ranks "
        "(largest: item 65.0 GiB, user 0.0 MiB); train on more hosts",
    ),
    "tables tight": ({"tables": tables(40)}, WARNING, "and the tables of recipe.py:din take 40.0 GiB"),
    "tables fit": ({"tables": tables(4)}, OK, "and the tables of recipe.py:din take 4.0 GiB"),
    "unwritable": ({"run_dir_writable": False}, ERROR, "The folder runs cannot be written to"),
    "unread disk": ({"disk_free": None}, WARNING, "disk space at runs could not be read"),
    "little disk": ({"disk_free": GIB}, WARNING, "Only 1.0 GiB of disk are free; checkpoints may fill it"),
    "checkpoints too large": (
        {"disk_free": 7 * GIB, "tables": tables(2)},
        ERROR,
        "Only 7.0 GiB of disk are free, but four checkpoints take 8.0 GiB",
    ),
    "threads unset": ({"threads": None}, OK, "one process uses all 4 cores"),
    "threads nonsense": ({"threads": "many"}, WARNING, "OMP_NUM_THREADS='many' is not a number"),
    "too many threads": ({"threads": "64"}, WARNING, "OMP_NUM_THREADS=64 is more than the 4 cores"),
}


@pytest.mark.parametrize(("change", "level", "sentence"), CASES.values(), ids=CASES.keys())
def test_each_judgement(change: dict, level: str, sentence: str) -> None:
    found = diagnose(replace(WELL, **change))
    said = [f for f in found if sentence in f.sentence]
    assert [f.level for f in said] == [level], found


def test_a_sound_machine_has_no_error_and_one_sentence_per_finding() -> None:
    found = diagnose(WELL)
    assert not [f for f in found if f.level == ERROR]
    assert all(f.sentence.endswith((".", ").")) and "\n" not in f.sentence for f in found)


def test_flags_are_read_from_the_first_processor(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert doctor.cpu_flags(file) == {"fpu", "avx2"}
    file.write_text("Features: neon\n")
    assert doctor.cpu_flags(file) is None
    assert doctor.cpu_flags(tmp_path / "absent") is None


def test_a_container_s_limit_counts(tmp_path: Path) -> None:
    assert doctor.container_memory(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert doctor.container_memory(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert doctor.container_memory(tmp_path) is None


def write_manifest(folder: Path, rows: int) -> None:
    schema = LogSchema(
        name="toy",
        features=(Feature(name="item_id", kind=Kind.CATEGORY, side=Side.ITEM, table="item"),),
        vocabularies=(Vocabulary(table="item"),),
        actions=("none",),
        labels=("clicked",),
    )
    manifest = LogManifest(
        fingerprint="0",
        data_schema=schema,
        split=Split(train_end=1, valid_end=2),
        tables={"item": TableInfo(rows=rows, ids=rows, out_of_vocabulary_share=0.0)},
        numbers={},
        row_groups=(),
        users=1,
        items=1,
        events=1,
        impressions=(1, 1, 1),
        positives={"clicked": (1, 1, 1)},
        time_range=(0, 3),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())


def test_sizes_of_a_log(tmp_path: Path) -> None:
    write_manifest(tmp_path, rows=1000)
    # Width 16 and one number of row-wise Adagrad per row, four bytes each.
    assert doctor.log_tables(tmp_path).bytes_by_table == {"item": 1000 * 17 * 4}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_load_torch", lambda: (None, ()))


@pytest.mark.usefixtures("quick")
def test_exit_status_and_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_manifest(tmp_path, rows=1000)
    assert doctor.examine(None, tmp_path, tmp_path / "not" / "yet") == 0
    assert "Training can work here." in capsys.readouterr().out
    write_manifest(tmp_path, rows=10**12)
    assert doctor.examine(None, tmp_path, tmp_path) == 1
    out = capsys.readouterr().out
    assert "error   Only " in out
    assert "Training cannot work here." in out


@pytest.mark.usefixtures("quick")
def test_a_log_that_is_none_is_a_finding(tmp_path: Path) -> None:
    facts = doctor.gather(None, tmp_path, tmp_path)
    sentence = f"The tables of {tmp_path} cannot be known: {tmp_path} is not a prepared log"
    assert [f.level for f in diagnose(facts) if f.sentence.startswith(sentence)] == [ERROR]


def test_a_probe_that_fails_says_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE", "raise ImportError('undefined symbol')")
    assert doctor._load_torch() == ("ImportError: undefined symbol", ())


def test_a_probe_that_dies_says_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE", "import os; os._exit(7)")
    assert doctor._load_torch() == ("the process ended with status 7", ())


def test_notes_of_gathering_are_kept() -> None:
    assert diagnose(replace(WELL, notes=(Finding(ERROR, "x."),)))[-1] == Finding(ERROR, "x.")
