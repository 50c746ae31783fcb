"""House rules a machine can check: names, lengths, mirrors, one place for ranks, for argv, and for paths."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest

from tests.structure.house import ROOT, Module, everything, modules

LONGEST = 400
ROOMS_WITHOUT_MEANING = {"utils", "util", "common", "core", "base", "misc", "helpers", "helper", "lib", "stuff"}
RANK_NAMES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}
TEXT_ENDINGS = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".sh", ".jinja", ".cfg", ".json", ""}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|home|root|Users|tmp)/[\w.]")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


def modules_of_tests() -> list[Module]:
    return list(modules("tests"))


def tracked() -> list[str]:
    """Files git knows or would take; everything below the root where git is not there (a tarball)."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    names = listing.stdout.splitlines() if listing.returncode == 0 else []
    return [n for n in names if (ROOT / n).is_file()] or [m.where for m in everything() + modules_of_tests()]


@pytest.mark.parametrize("module", everything() + modules_of_tests(), ids=lambda m: m.where)
def test_file_is_short_enough_to_read(module: Module) -> None:
    lines = module.text.count("\n")
    assert lines <= LONGEST, f"{module.where} has {lines} lines, more than {LONGEST}; split it by what it is about"


@pytest.mark.parametrize("module", everything(), ids=lambda m: m.where)
def test_names_say_what_is_inside(module: Module) -> None:
    bad = ROOMS_WITHOUT_MEANING & set(module.name.split("."))
    assert not bad, f"{module.where}: {sorted(bad)} says nothing about what is inside"


def covering_tests(module: Module) -> list[str]:
    """Where the tests of a module may live: its mirror; for the files of one op, that op's folder or file."""
    parts = module.name.split(".")[1:]
    if parts[0] == "ops" and len(parts) > 1:
        return [f"tests/ops/{parts[1]}/test_*.py", f"tests/ops/test_{parts[1]}.py"]
    return ["/".join(["tests", *parts[:-1], f"test_{parts[-1]}.py"])]


def needs_test(module: Module) -> bool:
    """A package file with no more than a docstring has nothing to test."""
    if module.path.name == "__main__.py":
        return False
    code = [n for n in module.tree.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    code = [n for n in code if not isinstance(n, (ast.Import, ast.ImportFrom))]
    return any(isinstance(n, (ast.FunctionDef, ast.ClassDef)) for n in code)


@pytest.mark.parametrize("module", [m for m in modules() if needs_test(m)], ids=lambda m: m.where)
def test_every_module_has_its_mirror(module: Module) -> None:
    places = covering_tests(module)
    assert any(list(ROOT.glob(p)) for p in places), f"{module.where} has no test: expected {' or '.join(places)}"


def environment_reads(module: Module) -> list[tuple[int, str]]:
    """Every string constant that is the name of a launcher's variable, whatever reads it."""
    return [
        (n.lineno, n.value)
        for n in ast.walk(module.tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and n.value in RANK_NAMES
    ]


@pytest.mark.parametrize("module", everything(), ids=lambda m: m.where)
def test_ranks_are_known_in_sharding_only(module: Module) -> None:
    if module.name.startswith("ctr_rec.sharding"):
        return
    found = environment_reads(module)
    assert not found, f"{module.where}:{found[0][0]} speaks of {found[0][1]}; take a Group from ctr_rec.sharding"


@pytest.mark.parametrize("module", everything(), ids=lambda m: m.where)
def test_argv_is_read_in_the_command_line_only(module: Module) -> None:
    # A data recipe's fetch script is a command of its own.
    if module.name == "ctr_rec.cli" or module.path.name == "fetch.py":
        return
    found = [n for n in ast.walk(module.tree) if isinstance(n, ast.Attribute) and ast.unparse(n) == "sys.argv"]
    assert not found, f"{module.where}:{found[0].lineno} reads sys.argv; only ctr_rec/cli.py does"


@pytest.mark.parametrize("module", everything(), ids=lambda m: m.where)
def test_every_exception_is_named(module: Module) -> None:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            pytest.fail(f"{module.where}:{node.lineno} has a bare except; name what is expected")


@pytest.mark.parametrize("module", modules(), ids=lambda m: m.where)
def test_module_says_what_it_is(module: Module) -> None:
    assert not module.tree.body or ast.get_docstring(module.tree), f"{module.where} has no docstring"


def test_no_path_of_a_developers_machine() -> None:
    for name in tracked():
        path = ROOT / name
        if path.suffix not in TEXT_ENDINGS or path.suffix == "" and path.stat().st_size > 200_000:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            found = MACHINE_PATH.search(line)
            assert not found, f"{name}:{number} names a path of one machine: {line.strip()[:80]}"


def test_nothing_is_left_for_later() -> None:
    for module in everything() + modules_of_tests():
        for number, line in enumerate(module.text.splitlines(), 1):
            assert not UNFINISHED.search(line), f"{module.where}:{number} leaves work behind: {line.strip()[:80]}"
