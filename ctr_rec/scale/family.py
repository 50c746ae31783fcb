"""Which runs belong to a family: one setting, or several that move together, over its values, each with its seeds.

--over tower.layers=1,2,4                                tower.layers=1 | =2 | =4
--over tower.width=32,64 --with tower.heads=2,4          tower.width=32 and tower.heads=2 | 64 and 4
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ctr_rec.config import override
from ctr_rec.errors import ConfigError
from ctr_rec.train.run import Run

# What belongs to one model and cannot be asked of another: a baseline keeps its own.
OF_ONE_MODEL = ("tower.", "data.batches.", "data.channels.")


@dataclass(frozen=True)
class Size:
    """One member: its name, such as `tower.layers=2`, and the settings that make it, in the order to apply them."""

    name: str
    settings: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Of its runs; values with brackets or quotes give a name that every file system takes."""
        return "".join(c if c.isalnum() or c in "._=+-" else "-" for c in self.name)


@dataclass(frozen=True)
class Family:
    """The sizes along one setting, `over`, in the order given."""

    over: str
    sizes: tuple[Size, ...]


def families(over: Sequence[str], together: Sequence[str] = ()) -> list[Family]:
    """over: `key=value,value,...`, one family each. together: of the only family, what moves with it, as many values.

    Settings of `together` are applied first, so that what they make room for is there.

    Raises:
        ConfigError: no "=", a value twice, a key twice, other numbers of values, or `together` with several families.
    """
    listed = [_listed(text, "--over") for text in over]
    moved = [_listed(text, "--with") for text in together]
    if moved and len(listed) != 1:
        raise ConfigError(
            f"scale: --with moves with one --over, got {len(listed)}; scale one setting at a time, each in a --run-dir "
            "of its own"
        )
    keys = [key for key, _ in (*listed, *moved)]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ConfigError(f"scale: expected every setting once, got {', '.join(twice)} twice; put its values together")
    for key, values in moved:
        if len(values) != len(listed[0][1]):
            raise ConfigError(
                f"--with {key}: expected {len(listed[0][1])} values, as many as --over {listed[0][0]} has, got "
                f"{len(values)}"
            )
    return [Family(key, tuple(_size(key, values, moved, i) for i in range(len(values)))) for key, values in listed]


def _size(key: str, values: list[str], moved: list[tuple[str, list[str]]], index: int) -> Size:
    settings = [f"{name}={others[index]}" for name, others in moved]
    return Size(f"{key}={values[index]}", (*settings, f"{key}={values[index]}"))


def _listed(text: str, option: str) -> tuple[str, list[str]]:
    key, eq, raw = text.partition("=")
    key = key.strip()
    if not eq or not key or not raw:
        raise ConfigError(
            f"{option} expects key=value,value,..., got {text!r}; for example {option} tower.layers=1,2,4"
        )
    try:
        # Commas inside brackets and quotes belong to a value.
        values = [json.dumps(value) for value in json.loads(f"[{raw}]")]
    except json.JSONDecodeError:
        values = [value.strip() for value in raw.split(",")]
    if "" in values or (option == "--over" and len(set(values)) != len(values)):
        raise ConfigError(f"{option} {key}: expected different values, got {raw}; remove what repeats or is empty")
    return key, values


def sized(run: Run, settings: Sequence[str], size: Size, seed: int) -> Run:
    """The recipe's run with the user's settings, of one size and seed. Raises ConfigError where a field refuses one."""
    return override(run, [*settings, *size.settings, f"train.seed={seed}"])


def baseline_run(run: Run, settings: Sequence[str], seed: int) -> Run:
    """The baseline under the family's conditions: all settings but those of `OF_ONE_MODEL`."""
    return override(run, [*(s for s in settings if not s.strip().startswith(OF_ONE_MODEL)), f"train.seed={seed}"])
