"""`ctr-rec inspect blocks`: how diverse each block of full attention is, and what masking it costs.

EST's Figure 3 and Table 1 (arXiv 2602.10811, section 4.1), of any trained full attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.table import Table

from ctr_rec.errors import ConfigError
from ctr_rec.evaluate.opened import open_run
from ctr_rec.files import write_json
from ctr_rec.inspect.block_masking import MASKS, METRICS, NOTHING, WAYS, BlockMasking, Effects
from ctr_rec.inspect.block_ranks import BlockRanks
from ctr_rec.inspect.blocks_plot import plot_blocks
from ctr_rec.inspect.trained import check_alone, run_of
from ctr_rec.metrics.bootstrap import Interval
from ctr_rec.models.baselines.full_attention import Block, FullAttentionTower, Projected
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.build import Built


def inspect_blocks(
    path: Path,
    split: str = "valid",
    checkpoint: str | None = None,
    log: Path | None = None,
    out: Path | None = None,
    impressions: int = 20_000,
    console: Console | None = None,
) -> tuple[BlockRanks, Effects]:
    """Prints effective ranks and what masking costs, and leaves blocks.json, .png and .svg in a folder.

    Args:
        path: folder of a run, or of one of its checkpoints. checkpoint: of a run: `best` (default), `last`, `step-N`.
        out: folder for the files; None for `blocks` in the run's folder. impressions: the sample ends with the batch
            that reaches so many.

    Raises:
        ConfigError: no run, several ranks, another tower, or one that was trained with a block masked. CheckpointError,
        DataError, SchemaError: as of `ctr-rec evaluate`.
    """
    run_dir, which = run_of(path, checkpoint)
    with open_group() as group:
        check_alone(group, "blocks")
        ranks, masking, facts = _measure(run_dir, which, split, log, group, impressions)
    effects = masking.effects()
    console = console or Console(highlight=False)
    out = out or run_dir / "blocks"
    by_metric = {
        key: {_name(block): ways for block, ways in found.items()} for key, found in effects.differences.items()
    }
    files = plot_blocks({_name(block): mean for block, mean in ranks.means().items()}, by_metric, out)
    write_json(out / "blocks.json", {**facts, **_plain(ranks, effects)})
    for part in _said(facts, ranks, effects):
        console.print(part, soft_wrap=isinstance(part, str), markup=False)
    console.print(f"files: {', '.join(str(f) for f in (*files, out / 'blocks.json'))}", soft_wrap=True, markup=False)
    return ranks, effects


def _measure(
    run_dir: Path, checkpoint: str, split: str, log: Path | None, group: Group, impressions: int
) -> tuple[BlockRanks, BlockMasking, dict[str, Any]]:
    built, stored = open_run(run_dir, checkpoint, log, group)
    tower, ranker = _tower(built), built.ranker
    ranks, masking, seen = BlockRanks(tower.config.layers), BlockMasking(), 0
    ranker.eval()
    with torch.no_grad():
        for batch in built.reader(split, 0).batches(epoch=0):
            on_device = batch.to(group.device)
            embedded, real_N = ranker.front(on_device), on_device.weight > 0

            def watch(depth: int, found: Projected, real_N: torch.Tensor = real_N) -> None:
                ranks.add(depth, found, real_N)

            logits = {}
            for mask in MASKS:
                tower.mask = mask
                x_ND = tower(embedded, on_device, watch if mask is NOTHING else None)
                logits[mask] = ranker.head(x_ND).squeeze(-1)
            masking.add(logits, batch)
            seen += int(real_N.sum())
            if seen >= impressions:
                break
    facts = {"run": str(run_dir), "step": stored.step, "log": built.run.data.log, "split": split, "impressions": seen}
    return ranks, masking, facts


def _tower(built: Built) -> FullAttentionTower:
    tower = built.ranker.tower
    if not isinstance(tower, FullAttentionTower):
        raise ConfigError(f"inspect blocks: {type(tower).__name__} is no full attention; expected a run of it")
    if tower.mask.blocks:
        names = ", ".join(sorted(map(_name, tower.mask.blocks)))
        raise ConfigError(f"inspect blocks: the run was trained with {names} masked; expected one that masks nothing")
    return tower


def _name(block: Block) -> str:
    """As the paper writes it, queries first."""
    return f"<{block.value[0].upper()}, {block.value[1].upper()}>"


def _said(facts: dict[str, Any], ranks: BlockRanks, effects: Effects) -> Iterator[RenderableType]:
    metrics = ", ".join(f"{key.upper()} {value:.4f}" for key, value in effects.metrics.items())
    yield (
        f"{facts['run']}, step {facts['step']}: {facts['impressions']:,} impressions of {facts['split']}, "
        f"{facts['log']}; {metrics}. Blocks are <queries, keys>: N feature tokens, B behaviours"
    )
    table = Table("block", title="effective rank, of 1")
    for depth in range(ranks.layers):
        table.add_column(f"layer {depth + 1}", justify="right")
    table.add_column("all queries alike", justify="right")
    for block, (by_layer, alike) in ranks.means().items():
        table.add_row(_name(block), *(f"{value:.4f}" for value in (*by_layer, alike)))
    yield table
    table = Table("block", title="masked at test: difference in percentage points, with intervals of 95 % by user")
    for key in METRICS:
        for way in WAYS:
            table.add_column(f"{key.upper()}, {way}", justify="right")
    for block in Block:
        cells = (effects.differences[key][block][way] for key in METRICS for way in WAYS)
        table.add_row(_name(block), *map(_points, cells))
    yield table


def _points(interval: Interval) -> str:
    return f"{100 * interval.value:+.2f} [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"


def _plain(ranks: BlockRanks, effects: Effects) -> dict[str, Any]:
    of_ranks = {
        block.value: {"layers": by_layer, "queries_alike": alike, "impressions": ranks.impressions[block]}
        for block, (by_layer, alike) in ranks.means().items()
    }
    masked = {
        key: {b.value: {way: asdict(i) for way, i in ways.items()} for b, ways in found.items()}
        for key, found in effects.differences.items()
    }
    return {"metrics": effects.metrics, "effective_rank": of_ranks, "masked_minus_whole": masked}
