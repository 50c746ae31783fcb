"""What the tests of this folder ask about the source: modules, their imports, their names. Parses, never imports."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "ctr_rec"
SOURCES = (PACKAGE, "data", "launch", "torchx_components")


@dataclass(frozen=True)
class Module:
    """One Python file. `name` is dotted, without a trailing `__init__`."""

    path: Path
    name: str
    tree: ast.Module = field(repr=False)
    text: str = field(repr=False)

    @property
    def where(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def room(self) -> str:
        """`ctr_rec.train.run` -> `train`, `ctr_rec.cli` -> `cli`, `ctr_rec` itself -> ``."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else ""


@dataclass(frozen=True)
class Import:
    """One imported name, as far as it is dotted: `from a.b import c` is `a.b.c` of module `a.b`."""

    module: str
    full: str
    line: int
    at_load: bool  # outside functions and outside `if TYPE_CHECKING`


@cache
def modules(folder: str = PACKAGE) -> tuple[Module, ...]:
    """Every Python file below a top-level folder, in a fixed order."""
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text()
        found.append(Module(path, name, ast.parse(text, str(path)), text))
    assert found, f"no Python file below {ROOT / folder}"
    return tuple(found)


def everything() -> list[Module]:
    """Every module of every source folder that exists."""
    return [m for folder in SOURCES if any((ROOT / folder).rglob("*.py")) for m in modules(folder)]


def imports(module: Module) -> list[Import]:
    """All imports, those inside functions included: a late import crosses a boundary all the same."""
    found: list[Import] = []
    _collect(module.tree, True, found)
    return found


def _collect(node: ast.AST, at_load: bool, found: list[Import]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            found += [Import(a.name, a.name, child.lineno, at_load) for a in child.names]
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"relative import on line {child.lineno}; write the whole name"
            assert child.module
            found += [Import(child.module, f"{child.module}.{a.name}", child.lineno, at_load) for a in child.names]
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or _is_type_checking(child)
        _collect(child, at_load and not inside, found)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def is_below(name: str, package: str) -> bool:
    """Whether a dotted name is `package` or lies inside it."""
    return name == package or name.startswith(package + ".")


def room_of(dotted: str) -> str | None:
    """The room of this package that a dotted name lies in; None for other packages."""
    parts = dotted.split(".")
    if parts[0] != PACKAGE:
        return None
    return parts[1] if len(parts) > 1 else ""


def clean(offenders: list[str]) -> None:
    """Fails with one line per offender, all of them at once."""
    assert not offenders, f"{len(offenders)} found:\n" + "\n".join(offenders)
