"""House rules a machine can check: names, lengths, mirrors, one place for ranks, for argv, and for paths."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

from tests.structure.house import ROOT, Module, clean, everything, modules

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


def test_files_are_short_enough_to_read() -> None:
    lengths = {m.where: m.text.count("\n") for m in everything() + modules_of_tests()}
    clean([f"{where} has {n} lines; split it by what it is about" for where, n in lengths.items() if n > LONGEST])


def test_names_say_what_is_inside() -> None:
    clean([m.where for m in everything() if ROOMS_WITHOUT_MEANING & set(m.name.split("."))])


def covering_tests(module: Module) -> list[str]:
    """Where the tests of a module may live: its mirror; for the files of one op, that op's folder or file."""
    parts = module.name.split(".")[1:]
    if module.path.name == "__init__.py" and parts:
        parts = [*parts, parts[-1]]
    if parts[0] == "ops" and len(parts) > 1:
        return [f"tests/ops/{parts[1]}/test_*.py", f"tests/ops/test_{parts[1]}.py"]
    return ["/".join(["tests", *parts[:-1], f"test_{parts[-1]}.py"])]


def says_more(node: ast.stmt) -> bool:
    """Whether a definition has anything to test: a class of no more than a docstring has not."""
    if isinstance(node, ast.ClassDef):
        return any(not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)) for n in node.body)
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def needs_test(module: Module) -> bool:
    return module.path.name != "__main__.py" and any(says_more(n) for n in module.tree.body)


def test_every_module_has_its_mirror() -> None:
    expected = {m.where: covering_tests(m) for m in modules() if needs_test(m)}
    clean(
        [
            f"{where} has no test: expected {' or '.join(places)}"
            for where, places in expected.items()
            if not any(list(ROOT.glob(p)) for p in places)
        ]
    )


def environment_reads(module: Module) -> list[tuple[int, str]]:
    """Every string constant that is the name of a launcher's variable, whatever reads it."""
    return [
        (n.lineno, n.value)
        for n in ast.walk(module.tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and n.value in RANK_NAMES
    ]


def test_ranks_are_known_in_sharding_only() -> None:
    clean(
        [
            f"{m.where}:{line} speaks of {name}; take a Group from ctr_rec.sharding"
            for m in everything()
            if not m.name.startswith("ctr_rec.sharding")
            for line, name in environment_reads(m)
        ]
    )


def test_argv_is_read_in_the_command_line_only() -> None:
    # A data recipe's fetch script is a command of its own.
    readers = [m for m in everything() if m.name != "ctr_rec.cli" and m.path.name != "fetch.py"]
    clean(
        [
            f"{m.where}:{n.lineno} reads sys.argv; only ctr_rec/cli.py does"
            for m in readers
            for n in ast.walk(m.tree)
            if isinstance(n, ast.Attribute) and ast.unparse(n) == "sys.argv"
        ]
    )


def test_every_exception_is_named() -> None:
    clean(
        [
            f"{m.where}:{n.lineno} has a bare except; name what is expected"
            for m in everything() + modules_of_tests()
            for n in ast.walk(m.tree)
            if isinstance(n, ast.ExceptHandler) and n.type is None
        ]
    )


def test_modules_say_what_they_are() -> None:
    clean([f"{m.where} has no docstring" for m in modules() if m.tree.body and not ast.get_docstring(m.tree)])


def lines_with(pattern: re.Pattern[str], path: Path) -> list[str]:
    where = path.relative_to(ROOT)
    numbered = enumerate(path.read_text(errors="replace").splitlines(), 1)
    return [f"{where}:{number} {line.strip()[:100]}" for number, line in numbered if pattern.search(line)]


def test_no_path_of_a_developers_machine() -> None:
    texts = [ROOT / name for name in tracked() if (ROOT / name).suffix in TEXT_ENDINGS]
    clean([line for path in texts for line in lines_with(MACHINE_PATH, path)])


def test_nothing_is_left_for_later() -> None:
    clean([line for m in everything() + modules_of_tests() for line in lines_with(UNFINISHED, m.path)])


def made_up(text: str, name: str = "ctr_rec.train.made_up") -> Module:
    return Module(ROOT / "made_up.py", name, ast.parse(text), text)


def test_the_rules_can_be_broken(tmp_path: Path) -> None:
    """Each finder sees what it is there to see, and passes over what only looks like it."""
    assert environment_reads(made_up("import os\nx = os.environ['RANK']\n")) == [(2, "RANK")]
    assert not environment_reads(made_up("x = 'RANKS'\n"))
    assert needs_test(made_up("def f(): return 1\n"))
    assert needs_test(made_up("class A:\n    x = 1\n"))
    assert not needs_test(made_up("'''Only words.'''\nclass A:\n    '''Words.'''\n"))
    assert covering_tests(made_up("", "ctr_rec.a.b")) == ["tests/a/test_b.py"]
    assert MACHINE_PATH.search("open('/" + "home/me/data')")
    assert not MACHINE_PATH.search("https://a.org/home/me")
    assert UNFINISHED.search("# TO" + "DO later")
    assert not UNFINISHED.search("mastodon")
