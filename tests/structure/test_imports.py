"""Imports go downward only, distributed packages stay in their rooms, and schema, prepare and help need no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

from tests.structure.house import ROOT, Import, Module, clean, everything, imports, is_below, modules, room_of

GROUND = {"", "errors", "config", "files"}
DATA = GROUND | {"schema"}
BATCH = DATA | {"prepare", "batch"}
DENSE = DATA | {"batch", "ops", "layers"}
MODEL = DENSE | {"models"}
RUNTIME = MODEL | {"metrics", "sharding", "checkpoint"}
FLOWS = RUNTIME | {"train", "evaluate", "serve"}

# What each room may import, itself aside. A room that is not here is a room that nobody has agreed on.
MAY_IMPORT = {
    "": set(),
    "errors": set(),
    "config": {"errors"},
    "files": {"errors"},
    "schema": GROUND,
    "prepare": DATA | {"batch", "metrics"},
    "content": DATA | {"prepare", "batch"},
    "batch": BATCH,
    "ops": {"errors"},
    "layers": DENSE,
    "models": MODEL,
    "metrics": GROUND,
    "sharding": MODEL,
    "checkpoint": MODEL | {"sharding"},
    "train": FLOWS,
    "evaluate": FLOWS | {"prepare"},
    "serve": FLOWS,
    "inspect": FLOWS,
    "doctor": FLOWS,
    "bench": FLOWS | {"prepare"},
    "sentences": {"sharding"},
    "verbs": {"content"},
    "cli": FLOWS | {"prepare", "content", "inspect", "doctor", "bench", "sentences", "verbs"},
    "__main__": {"cli"},
}
MODEL_ROOMS = {"ops", "layers", "models"}
DISTRIBUTED = ("torch.distributed", "torchrec.distributed")
DISTRIBUTED_ROOMS = {"sharding", "checkpoint", "bench"}
TORCH_FREE = ("schema", "prepare")


def upward(module: Module) -> list[Import]:
    return [
        i
        for i in imports(module)
        if (room := room_of(i.full)) is not None and room != module.room and room not in MAY_IMPORT[module.room]
    ]


def test_imports_go_downward_only() -> None:
    strange = [f"{m.where}: room {m.room!r} is not in the law of the house" for m in modules() if unknown(m)]
    clean(strange)
    clean(
        [
            f"{m.where}:{i.line} imports {i.full}; {m.room} may use {sorted(MAY_IMPORT[m.room])}"
            for m in modules()
            for i in upward(m)
        ]
    )


def unknown(module: Module) -> bool:
    return module.room not in MAY_IMPORT


def test_modules_form_no_cycle() -> None:
    """Rooms of one level (train, evaluate, serve) may use each other, as long as no two modules need each other."""
    names = {m.name for m in modules()}
    graph = {m.name: {owner(i, names) for i in imports(m)} - {None, m.name} for m in modules()}
    # static_order raises CycleError, which names the modules.
    assert list(TopologicalSorter(graph).static_order())


def owner(found: Import, names: set[str]) -> str | None:
    """The module that an import needs: the name itself where that is a module, else what it is taken from."""
    return next((name for name in (found.full, found.module) if name in names), None)


def distributed(module: Module) -> list[Import]:
    if module.name.startswith("ctr_rec.") and module.room in DISTRIBUTED_ROOMS:
        return []
    return [i for i in imports(module) if any(is_below(i.full, package) for package in DISTRIBUTED)]


def test_distributed_packages_stay_in_their_rooms() -> None:
    only = sorted(DISTRIBUTED_ROOMS)
    clean([f"{m.where}:{i.line} imports {i.full}; only {only} may" for m in everything() for i in distributed(m)])


def test_schema_and_prepare_name_no_torch() -> None:
    torch_names = ("torch", "torchrec", "fbgemm_gpu")
    clean(
        [
            f"{m.where}:{i.line} imports {i.full}; {m.room} never does"
            for m in modules()
            if m.room in TORCH_FREE
            for i in imports(m)
            if i.full.partition(".")[0] in torch_names
        ]
    )


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_no_torch_is_reachable_from_schema_and_prepare() -> None:
    names = [m.name for m in modules() if m.room in TORCH_FREE]
    assert "torch" not in loaded_by("import " + ", ".join(names))


def test_help_loads_nothing_heavy() -> None:
    statement = "from ctr_rec.cli import commands\nimport click\ncommands.get_help(click.Context(commands))"
    heavy = {"torch", "torchrec", "polars", "pyarrow", "pydantic", "matplotlib", "numpy", "rich", "scipy", "sklearn"}
    assert not heavy & loaded_by(statement)


def test_the_law_can_be_broken(tmp_path: Path) -> None:
    """A module that breaks the law is seen, also where it hides the import in a function."""
    text = "def f():\n    from ctr_rec.train.run import Run\n    import torch.distributed as dist\n"
    module = Module(tmp_path / "bad.py", "ctr_rec.ops.bad", ast.parse(text), text)
    assert [i.full for i in upward(module)] == ["ctr_rec.train.run.Run"]
    assert [i.full for i in distributed(module)] == ["torch.distributed"]
