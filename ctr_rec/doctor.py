"""Can training work here? Facts are gathered once; every judgement is a pure function of them, one sentence each."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from ctr_rec.errors import CtrRecError

OK, WARNING, ERROR = "ok", "warning", "error"
FBGEMM = ("fbgemm-gpu-cpu", "fbgemm-gpu")
# fbgemm and torchrec 1.X are built against torch 2.(X + 5).
MINOR_BEHIND_TORCH = 5
NEEDED = ("numpy", "pyarrow", "polars", "pydantic", "scikit-learn", "scipy", "tensordict", "torchmetrics", "iopath")
OPTIONAL = {"torchx": "launching on a cluster", "tensorboard": "TensorBoard event files", "matplotlib": "reports"}
PROBE = "import torch, fbgemm_gpu, torchrec; torch.ops.fbgemm.asynchronous_complete_cumsum(torch.ones(2).long())"
GIB = 1 << 30
LOW_DISK = 5 * GIB
LOW_MEMORY = 2 * GIB


@dataclass(frozen=True)
class Finding:
    """level is "ok", "warning" (slower or smaller than need be) or "error" (training could not work)."""

    level: str
    sentence: str


@dataclass(frozen=True)
class Tables:
    """Bytes of embedding tables and their optimizer state, and which source says so."""

    source: str
    bytes_by_table: Mapping[str, int]


@dataclass(frozen=True)
class Facts:
    """What is known about the machine. None where it could not be found out."""

    python: tuple[int, int]
    versions: Mapping[str, str]
    probe_error: str | None
    machine: str
    cpu_flags: frozenset[str] | None
    gpus: tuple[str, ...]
    memory_free: int | None
    disk_free: int | None
    run_dir: Path
    run_dir_writable: bool
    threads: str | None
    cores: int
    tables: Tables | None = None
    notes: tuple[Finding, ...] = field(default=())


def diagnose(facts: Facts) -> list[Finding]:
    """All findings, in the order of what breaks first."""
    checks: tuple[Callable[[Facts], list[Finding]], ...] = (
        _python,
        _packages,
        _versions,
        _probe,
        _cpu,
        _gpu,
        _memory,
        _disk,
        _threads,
    )
    return [finding for check in checks for finding in check(facts)] + list(facts.notes)


def _python(facts: Facts) -> list[Finding]:
    text = ".".join(map(str, facts.python))
    if (3, 10) <= facts.python < (3, 13):
        return [Finding(OK, f"Python {text}.")]
    return [Finding(ERROR, f"Python {text} is not supported; make the environment with Python 3.10, 3.11 or 3.12.")]


def _packages(facts: Facts) -> list[Finding]:
    missing = [name for name in NEEDED if name not in facts.versions]
    found = []
    if missing:
        found.append(Finding(ERROR, f"Missing packages: {', '.join(missing)}; `make env` installs them."))
    for name, purpose in OPTIONAL.items():
        if name not in facts.versions:
            found.append(Finding(WARNING, f"{name} is not installed; {purpose} will not work."))
    return found or [Finding(OK, "All packages that ctr-rec imports are installed.")]


def _versions(facts: Facts) -> list[Finding]:
    torch = facts.versions.get("torch")
    builds = [name for name in FBGEMM if name in facts.versions]
    if torch is None:
        return [Finding(ERROR, "torch is not installed; `make env` installs the set that belongs together (BUILD.md).")]
    if not builds:
        return [Finding(ERROR, f"fbgemm is not installed; torch {torch} needs {_belonging(torch)}.")]
    if len(builds) > 1:
        return [
            Finding(
                ERROR,
                f"{' and '.join(builds)} are both installed and overwrite each other; remove both, then `make env`.",
            )
        ]
    if "torchrec" not in facts.versions:
        return [Finding(ERROR, f"torchrec is not installed; torch {torch} needs {_belonging(torch)}.")]
    wrong = [
        f"{name} {facts.versions[name]}"
        for name in (builds[0], "torchrec")
        if _minor(facts.versions[name]) != _minor(torch) - MINOR_BEHIND_TORCH
    ]
    if wrong:
        verb = "does" if len(wrong) == 1 else "do"
        return [
            Finding(ERROR, f"{' and '.join(wrong)} {verb} not belong to torch {torch}; it needs {_belonging(torch)}.")
        ]
    together = f"torch {torch}, {builds[0]} {facts.versions[builds[0]]} and torchrec {facts.versions['torchrec']}"
    found = [Finding(OK, f"{together} belong together.")]
    if builds[0] == "fbgemm-gpu-cpu" and facts.gpus:
        found.append(
            Finding(WARNING, "A GPU is here, but fbgemm-gpu-cpu has no kernels for it; `make env DEVICE=cuda`.")
        )
    return found


def _belonging(torch: str) -> str:
    minor = _minor(torch) - MINOR_BEHIND_TORCH
    return f"fbgemm 1.{minor} and torchrec 1.{minor}"


def _minor(version: str) -> int:
    found = re.match(r"\d+\.(\d+)", version)
    return int(found.group(1)) if found else -1


def _probe(facts: Facts) -> list[Finding]:
    if facts.probe_error is None:
        return [Finding(OK, "torch, fbgemm and torchrec load together and an fbgemm operator runs.")]
    return [Finding(ERROR, f"torch, fbgemm and torchrec do not load together: {facts.probe_error}.")]


def _cpu(facts: Facts) -> list[Finding]:
    if facts.machine not in ("x86_64", "AMD64"):
        return [Finding(WARNING, f"The processor is {facts.machine}; fbgemm's CPU kernels are tuned for x86-64 only.")]
    if facts.cpu_flags is None:
        return [Finding(WARNING, "The processor's features could not be read; fbgemm's CPU kernels need AVX2.")]
    if "avx2" not in facts.cpu_flags:
        return [Finding(ERROR, "The processor has no AVX2, which fbgemm's CPU kernels need; use another machine.")]
    wide = "AVX2 and AVX-512" if "avx512f" in facts.cpu_flags else "AVX2"
    return [Finding(OK, f"The processor has {wide}, {facts.cores} cores can be used.")]


def _gpu(facts: Facts) -> list[Finding]:
    if facts.gpus:
        return [Finding(OK, f"{len(facts.gpus)} GPU: {', '.join(sorted(set(facts.gpus)))}.")]
    return [Finding(WARNING, "No GPU that torch can use; training runs on the CPU, where tables cannot use Adam.")]


def _memory(facts: Facts) -> list[Finding]:
    if facts.memory_free is None:
        return [Finding(WARNING, "The free memory could not be read.")]
    free = _size(facts.memory_free)
    if facts.tables is not None:
        needed = sum(facts.tables.bytes_by_table.values())
        largest = sorted(facts.tables.bytes_by_table.items(), key=lambda kv: -kv[1])[:3]
        names = ", ".join(f"{name} {_size(size)}" for name, size in largest)
        plan = f"the tables of {facts.tables.source} take {_size(needed)} over all ranks (largest: {names})"
        if needed > facts.memory_free:
            remedy = "train on more hosts, or narrow embedding.dim, or raise min_count in the data recipe"
            return [Finding(ERROR, f"Only {free} of memory are free, but {plan}; {remedy}.")]
        level = WARNING if needed > facts.memory_free / 2 else OK
        return [Finding(level, f"{free} of memory are free, and {plan}.")]
    if facts.memory_free < LOW_MEMORY:
        return [
            Finding(
                WARNING, f"Only {free} of memory are free; a training process needs about 1 GiB besides its tables."
            )
        ]
    return [Finding(OK, f"{free} of memory are free (--recipe or --log compares that with the tables).")]


def _size(num_bytes: int) -> str:
    """In GiB, or in MiB where that would be nothing."""
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / (1 << 20):.1f} MiB"


def _disk(facts: Facts) -> list[Finding]:
    if not facts.run_dir_writable:
        return [Finding(ERROR, f"The folder {facts.run_dir} cannot be written to; choose another --run-dir.")]
    if facts.disk_free is None:
        return [Finding(WARNING, f"The free disk space at {facts.run_dir} could not be read.")]
    free = _size(facts.disk_free)
    # A new checkpoint is complete before an old one goes: the best, two last ones, and the one being written.
    needed = 4 * sum(facts.tables.bytes_by_table.values()) if facts.tables is not None else 0
    if facts.disk_free < needed:
        return [Finding(ERROR, f"Only {free} of disk are free, but four checkpoints take {_size(needed)}.")]
    if facts.disk_free < LOW_DISK:
        return [Finding(WARNING, f"Only {free} of disk are free; checkpoints may fill it.")]
    return [Finding(OK, f"{free} of disk are free.")]


def _threads(facts: Facts) -> list[Finding]:
    if facts.threads is None:
        return [
            Finding(
                OK, f"OMP_NUM_THREADS is not set: one process uses all {facts.cores} cores, torchrun gives each rank 1."
            )
        ]
    if not facts.threads.isdigit() or int(facts.threads) < 1:
        return [Finding(WARNING, f"OMP_NUM_THREADS={facts.threads!r} is not a number of threads; unset it.")]
    if int(facts.threads) > facts.cores:
        return [
            Finding(
                WARNING,
                f"OMP_NUM_THREADS={facts.threads} is more than the {facts.cores} cores here; training will be slow.",
            )
        ]
    return [Finding(OK, f"OMP_NUM_THREADS={facts.threads}, of {facts.cores} cores.")]


def gather(recipe: str | None, log: Path | None, run_dir: Path) -> Facts:
    """Looks at this machine; takes a few seconds, since it loads torch in a process of its own."""
    tables, notes = _tables(recipe, log)
    probe_error, gpus = _load_torch()
    existing = next(p for p in (run_dir.absolute(), *run_dir.absolute().parents) if p.exists())
    return Facts(
        python=sys.version_info[:2],
        versions=_installed(),
        probe_error=probe_error,
        machine=platform.machine(),
        cpu_flags=cpu_flags(Path("/proc/cpuinfo")),
        gpus=gpus,
        memory_free=_memory_free(),
        disk_free=shutil.disk_usage(existing).free,
        run_dir=run_dir,
        run_dir_writable=os.access(existing, os.W_OK),
        threads=os.environ.get("OMP_NUM_THREADS"),
        cores=_cores(),
        tables=tables,
        notes=notes,
    )


def _installed() -> dict[str, str]:
    found = {}
    for name in ("torch", "torchrec", *FBGEMM, *NEEDED, *OPTIONAL):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _load_torch() -> tuple[str | None, tuple[str, ...]]:
    """(what went wrong, names of usable GPUs). In a child, because a wrong pair of builds may kill the process."""
    names = "print(*[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())], sep='\\n')"
    try:
        done = subprocess.run([sys.executable, "-c", f"{PROBE}; {names}"], capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return "loading them took more than 300 seconds", ()
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return (lines[-1].rstrip(".") if lines else f"the process ended with status {done.returncode}"), ()
    return None, tuple(line for line in done.stdout.splitlines() if line)


def cpu_flags(cpuinfo: Path) -> frozenset[str] | None:
    """Feature flags of the first processor, None where the file does not say."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return None
    found = re.search(r"^flags\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(found.group(1).split()) if found else None


def _memory_free() -> int | None:
    try:
        import psutil
    except ModuleNotFoundError:
        return None
    limit = container_memory(Path("/sys/fs/cgroup"))
    available = psutil.virtual_memory().available
    return available if limit is None else min(available, limit)


def container_memory(cgroup: Path) -> int | None:
    """Bytes a container may still take (cgroup v2), None where there is no limit to read."""
    try:
        limit, used = (cgroup / "memory.max").read_text().strip(), (cgroup / "memory.current").read_text().strip()
    except OSError:
        return None
    return max(0, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tables(recipe: str | None, log: Path | None) -> tuple[Tables | None, tuple[Finding, ...]]:
    """Table sizes of a recipe or a log; a failure to read them is a finding of its own."""
    try:
        if recipe is not None:
            return recipe_tables(recipe, log), ()
        return (log_tables(log), ()) if log is not None else (None, ())
    except (CtrRecError, ImportError, OSError) as error:
        return None, (Finding(ERROR, f"The tables of {recipe or log} cannot be known: {error}."),)


def log_tables(log: Path) -> Tables:
    """Sizes with the default width and row-wise Adagrad. Raises DataError where there is no prepared log."""
    from ctr_rec.schema.manifest import load_manifest
    from ctr_rec.schema.table import EmbeddingSettings, sparse_spec

    spec = sparse_spec(load_manifest(log), EmbeddingSettings())
    return Tables(f"{log} at the default width", {t.name: 4 * t.rows * (t.dim + 1) for t in spec.tables})


def recipe_tables(recipe: str, log: Path | None) -> Tables:
    """Sizes as the recipe sets them, on its own log or on `log`. Raises CtrRecError for either."""
    from ctr_rec.config import load_recipe
    from ctr_rec.schema.manifest import load_manifest
    from ctr_rec.schema.table import sparse_spec
    from ctr_rec.train.run import Run

    run = load_recipe(recipe, Run)
    spec = sparse_spec(load_manifest(log or run.data.log), run.embedding)
    return Tables(recipe, {t.name: 4 * t.rows * t.dim + run.sharding.optimizer.state_bytes(t) for t in spec.tables})


def examine(recipe: str | None, log: Path | None, run_dir: Path) -> int:
    """Prints one line per finding. Returns the exit status: 1 when training could not work, else 0."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    style = {OK: "green", WARNING: "yellow", ERROR: "red"}
    findings = diagnose(gather(recipe, log, run_dir))
    for finding in findings:
        console.print(f"[{style[finding.level]}]{finding.level:8s}[/]", end="")
        console.print(finding.sentence, markup=False)
    broken = any(f.level == ERROR for f in findings)
    console.print("Training cannot work here." if broken else "Training can work here.")
    return 1 if broken else 0
