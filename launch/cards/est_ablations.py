"""EST's tables 1, 2 and 4, ours beside the paper's, and what a log can resolve.

    python -m launch.cards.est_ablations --table mechanisms --card launch/records/NAME
    python -m launch.cards.est_ablations --table content --log LOG --set data.label=is_click --card launch/records/NAME

blocks (Table 1): full attention, retrained with one block of its attention masked; `ctr-rec inspect blocks` masks them
at test. content (Table 2): what content buys a model of ids, as side information, as tiers of likeness, or both; its
row of semantic ids takes a log prepared with them and is not here. mechanisms (Table 4): EST and EST without CSA over
full attention; [ours] EST without retrieval and without tiers. sharing [ours]: EST over whole users, whose impressions
share one pass (models/est/packed.py), in batches of whole users and in batches of the same impressions shuffled singly,
which tells the model from what is correlated in its batches; about as many impressions a step. The paper's changes are
relative, ours are not. The log is one with content, see launch/recipes/est.py. Arms have the sizes of the card of EST's
table. Runs of other --set go below another --root. See ablations.py.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from launch.cards.ablations import Arm, Family, make_card
from launch.cards.est_sizes import SMALL
from launch.cards.jobs import OWN, card_option, said

ROOT = Path("runs/card_est_ablations")
RECIPES = "launch/recipes/est.py"
# A model of ids reads no content: its long history is not searched, as EST's ID model is no more than that [ours].
UNSEARCHED = {
    "tower.tokens.retrieval": "null",
    "data.channels": json.dumps({"recent": {"last": int(SMALL["data.channels.recent.last"])}}),
}
IDS = {**UNSEARCHED, "tower.csa": "false", "tower.tokens.simtier": "false"}
HEADING = "paper, AUC / GAUC, relative"
TIERS = {**IDS, "tower.tokens.simtier": "true"}
SIDE = {"tower.tokens.side_information": "true"}


# Of the sharing table: histories of at most 1,000 events, as a packed batch brings as many along.
SHARED = {
    key: SMALL[key] for key in ("tower.tokens.width", "tower.tokens.retrieval", "dense.lr", "validation.patience")
}
SINGLY = {key: value for key, value in SMALL.items() if key not in SHARED}
PACKED = {"tower.window": SMALL["data.channels.recent.last"], "tower.lifelong": "1000"}


def _masked(block: str) -> dict[str, str]:
    return {"tower.masked": f'["{block}"]'}


TABLES = {
    "blocks": Family(
        recipes=RECIPES,
        whole="full_attention",
        heading=HEADING,
        root=ROOT / "blocks",
        shared=SMALL,
        arms={
            "full_attention": Arm("full_attention"),
            "without <B, B>": Arm("full_attention", _masked("bb"), "-0.01 / -0.00 %"),
            "without <B, N>": Arm("full_attention", _masked("bn"), "-0.03 / -0.02 %"),
            "without <N, N>": Arm("full_attention", _masked("nn"), "-0.03 / -0.02 %"),
            "without <N, B>": Arm("full_attention", _masked("nb"), "-0.20 / -0.20 %"),
        },
    ),
    "content": Family(
        recipes=RECIPES,
        whole="ids",
        heading=HEADING,
        root=ROOT / "content",
        shared=SMALL,
        arms={
            "ids": Arm("est", IDS),
            "side information": Arm("est", {**IDS, **SIDE}, "+0.44 / +0.89 %"),
            "SimTier": Arm("est", TIERS, "+1.18 / +1.58 %"),
            "SimTier and side information": Arm("est", {**TIERS, **SIDE}, "+0.95 / +1.47 %"),
        },
    ),
    "mechanisms": Family(
        recipes=RECIPES,
        whole="full attention",
        heading=HEADING,
        root=ROOT / "mechanisms",
        shared=SMALL,
        arms={
            "full attention": Arm("full_attention"),
            "EST": Arm("est", {}, "+0.17 / +0.14 %"),
            "EST without CSA": Arm("est", {"tower.csa": "false"}, "-0.01 / -0.03 %"),
            "EST without SimTier": Arm("est", {"tower.tokens.simtier": "false"}),
            "EST without retrieval": Arm("est", UNSEARCHED),
        },
    ),
    "sharing": Family(
        recipes=RECIPES,
        whole="EST",
        heading=HEADING,
        root=ROOT / "sharing",
        shared=SHARED,
        arms={
            "EST": Arm("est", {**SINGLY, "data.channels.lifelong.last": "1000"}),
            "packed, whole users": Arm("packed_est", {**PACKED, "data.batches": '{"tokens": 2048, "context": 1000}'}),
            "packed, shuffled singly": Arm(
                "packed_est", {**PACKED, "data.batches": '{"filling": "alone", "impressions": 512, "history": 1000}'}
            ),
        },
    ),
}


@click.command()
@click.option("--arm", "arms", multiple=True, help="Only these, beside the one that all are paired with.")
@click.option("--table", type=click.Choice(list(TABLES)), required=True)
@click.option("--log", default="logs/movielens_1m_early_content", help="A log prepared with content.")
@click.option("--epochs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--split", type=click.Choice(["valid", "test"]), default="test", help="What the table is about.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Setting of every arm.")
@click.option("--root", type=click.Path(path_type=Path), help="Of the runs.")
@card_option
def main(
    table: str,
    arms: tuple[str, ...],
    log: str,
    epochs: int,
    split: str,
    sets: tuple[str, ...],
    root: Path | None,
    card: Path,
) -> None:
    """Run what is not done yet, print the report and write the card."""
    family = TABLES[table]
    unknown = [arm for arm in arms if arm not in family.arms]
    if unknown:
        raise click.UsageError(f"--arm {unknown[0]!r} is not in the table {table}, which has {list(family.arms)}")
    shared = {**family.shared, **said(sets, "--set", OWN)}
    family = dataclasses.replace(family, shared=shared, root=root or family.root)
    make_card(family, arms or list(family.arms), log, epochs, split, card)


if __name__ == "__main__":
    main()
