"""`ctr-rec inspect attention`: where a trained tower looks, over a sample of a split (the GRAB paper's Figure 7)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.table import Table

from ctr_rec.errors import ConfigError
from ctr_rec.evaluate.opened import open_run
from ctr_rec.files import write_json
from ctr_rec.inspect.attention_mass import AttentionMass, Mass
from ctr_rec.inspect.attention_plot import plot_attention
from ctr_rec.inspect.trained import check_alone, run_of
from ctr_rec.models.grab.tower import GRABTower
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.build import Built

_UNITS = (("y", 31_557_600), ("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def inspect_attention(
    path: Path,
    split: str = "valid",
    checkpoint: str | None = None,
    log: Path | None = None,
    out: Path | None = None,
    impressions: int = 20_000,
    console: Console | None = None,
) -> AttentionMass:
    """Prints where the candidates' attention goes, and leaves attention.json, .png and .svg in a folder.

    Args:
        path: folder of a run, or of one of its checkpoints. checkpoint: of a run: `best` (default), `last`, `step-N`.
        out: folder for the files; None for `attention` in the run's folder. impressions: the sample ends with the batch
            that reaches so many.

    Raises:
        ConfigError: no run, several ranks, or a tower without softmax attention. CheckpointError, DataError,
        SchemaError: as of `ctr-rec evaluate`.
    """
    run_dir, which = run_of(path, checkpoint)
    with open_group() as group:
        check_alone(group, "attention")
        mass, facts, actions = _measure(run_dir, which, split, log, group, impressions)
    console = console or Console(highlight=False)
    out = out or run_dir / "attention"
    shares = {name: [m.shares(mass.impressions) for m in c.layers] for name, c in mass.channels.items()}
    even = {name: c.even.shares(mass.impressions) for name, c in mass.channels.items()}
    files = plot_attention(shares, even, actions, position_groups, time_groups, out)
    content = {name: _plain(shares[name], even[name], actions) for name in shares}
    write_json(out / "attention.json", {**facts, "impressions": mass.impressions, "channels": content})
    for part in _said(facts, mass, shares, even, actions):
        console.print(part, soft_wrap=isinstance(part, str), markup=False)
    console.print(f"files: {', '.join(str(f) for f in (*files, out / 'attention.json'))}", soft_wrap=True, markup=False)
    return mass


def _measure(
    run_dir: Path, checkpoint: str, split: str, log: Path | None, group: Group, impressions: int
) -> tuple[AttentionMass, dict[str, Any], tuple[str, ...]]:
    built, stored = open_run(run_dir, checkpoint, log, group)
    mass = AttentionMass(_tower(built), built.spec.num_actions, built.spec.ticks_per_second)
    reader = built.reader(split, 0)
    built.ranker.eval()
    with torch.no_grad():
        for batch in reader.batches(epoch=0):
            on_device = batch.to(group.device)
            mass.add(built.ranker.front(on_device), on_device)
            if mass.impressions >= impressions:
                break
    facts = {"run": str(run_dir), "step": stored.step, "log": built.run.data.log, "split": split}
    return mass, facts, built.manifest.data_schema.actions


def _tower(built: Built) -> GRABTower:
    tower = built.ranker.tower
    if not isinstance(tower, GRABTower):
        raise ConfigError(
            f"inspect attention: {type(tower).__name__} has no softmax attention over a history, whose weights sum to "
            "one; expected a run of GRAB"
        )
    return tower


def position_groups(mass: Mass) -> Iterator[tuple[str, slice]]:
    """1, 2, 3-4, 5-8, ... as names and slices of `Mass.position`."""
    low, longest = 1, len(mass.position) - 1
    while low <= longest:
        high = min(1 << (low - 1).bit_length(), longest)
        yield (str(low) if low == high else f"{low}-{high}"), slice(low, high + 1)
        low = high + 1


def time_groups(mass: Mass) -> Iterator[tuple[str, slice]]:
    """Buckets of `Mass.time` from the first to the last that has any mass, by the shortest time in them."""
    used = mass.time.nonzero().flatten().tolist()
    for bucket in range(used[0], used[-1] + 1) if used else ():
        yield _duration((1 << bucket) - 1), slice(bucket, bucket + 1)


def _duration(seconds: int) -> str:
    unit, size = next(((u, s) for u, s in _UNITS if seconds >= s), _UNITS[-1])
    return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:.0f} {unit}"


def _rows(mass: Mass, even: Mass, actions: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    """Named shares, the same names for every layer of a channel."""
    yield "own key", mass.own
    for name, part in position_groups(even):
        yield f"position {name}", float(mass.position[part].sum())
    for name, part in time_groups(even):
        yield f"at least {name} ago", float(mass.time[part].sum())
    for code, name in enumerate(actions):
        yield f"action {name}", float(mass.action[code])


def _said(
    facts: dict[str, Any],
    mass: AttentionMass,
    shares: dict[str, list[Mass]],
    even: dict[str, Mass],
    actions: tuple[str, ...],
) -> Iterator[RenderableType]:
    yield (
        f"{facts['run']}, step {facts['step']}: attention of {mass.impressions:,} impressions of {facts['split']}, "
        f"{facts['log']}; shares of all attention in percent, heads averaged"
    )
    for channel, layers in shares.items():
        table = Table("key", title=f"channel {channel}")
        for depth in range(len(layers)):
            table.add_column(f"layer {depth + 1}", justify="right")
        table.add_column("equal weights", justify="right")
        columns = [list(_rows(m, even[channel], actions)) for m in (*layers, even[channel])]
        for cells in zip(*columns, strict=True):
            table.add_row(cells[0][0], *(f"{100 * share:.2f}" for _, share in cells))
        yield table


def _plain(layers: list[Mass], even: Mass, actions: tuple[str, ...]) -> dict[str, Any]:
    def one(mass: Mass) -> dict[str, Any]:
        named = dict(zip(actions, mass.action.tolist(), strict=True))
        return {"own": mass.own, "position": mass.position.tolist(), "time": mass.time.tolist(), "action": named}

    return {"layers": [one(m) for m in layers], "equal_weights": one(even)}
