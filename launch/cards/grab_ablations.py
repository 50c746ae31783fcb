"""GRAB's ablations: every row of the paper's Table 3, ours beside theirs, and what this log can resolve.

    ctr-rec prepare data/movielens_1m --raw FOLDER --out logs/movielens_1m_early --split early
    python -m launch.cards.grab_ablations --card launch/records/NAME
    python -m launch.cards.grab_ablations --log LOG --epochs 2 --split valid --arm no_time --card launch/records/NAME

Each arm is the recipe `grab` with a few settings changed, see ablations.py. Stopped anywhere, the same command goes on.
The paper's arms are Baidu's model on Baidu's log.
"""

from __future__ import annotations

from pathlib import Path

import click

from launch.cards.ablations import Arm, Family, make_card
from launch.cards.jobs import card_option

ONE_CHANNEL = {"tower.channels": '{"all": {}}'}
# The paper: change of AUC in 1e-5 where Table 3 has the row. Its "no relative action" takes the action from the bias
# [ours].
FAMILY = Family(
    recipes="launch/recipes/movielens.py",
    whole="grab",
    heading="paper, AUC in 1e-5",
    root=Path("runs/card_grab_ablations"),
    arms={
        "grab": Arm("grab"),
        "partial_only": Arm("grab", {"tower.shared_tokenizer": "false", "tower.views": "partial"}, "-280"),
        "full_only": Arm("grab", {"tower.shared_tokenizer": "false", "tower.views": "full"}, "-23"),
        "no_position": Arm("grab", {"tower.use_position": "false"}, "-4"),
        "no_time": Arm("grab", {"tower.use_time": "false"}, "-29"),
        "action_token": Arm("grab", {"tower.action": "token"}, "-48"),
        "action_bias": Arm("grab", {"tower.action": "bias"}),
        "action_neither": Arm("grab", {"tower.action": "neither"}),
        "single_channel": Arm("grab", ONE_CHANNEL, "-29"),
        # As many dense parameters as the three channels have together, within 2 per cent.
        "single_channel_matched": Arm(
            "grab", {**ONE_CHANNEL, "tower.width": "96", "tower.heads": "6", "tower.ffn": "256"}
        ),
        "no_mix": Arm("grab", {"tower.mix": "none"}, "-4"),
        "joint_gate": Arm("grab", {"tower.mix": "joint"}),
        "latent": Arm("grab", {"tower.latent": "16"}),
        "profile_tokens": Arm("grab", {"tower.profile_tokens": "true"}),
    },
)


@click.command()
@click.option("--arm", "arms", type=click.Choice(list(FAMILY.arms)), multiple=True, default=list(FAMILY.arms))
@click.option("--log", default="logs/movielens_1m_early", help="A prepared log.")
@click.option("--epochs", type=click.IntRange(min=1), default=4, help="At most; training stops where it stops to gain.")
@click.option("--split", type=click.Choice(["valid", "test"]), default="test", help="What the table is about.")
@card_option
def main(arms: tuple[str, ...], log: str, epochs: int, split: str, card: Path) -> None:
    """Run what is not done yet, print the report and write the card."""
    make_card(FAMILY, arms, log, epochs, split, card)


if __name__ == "__main__":
    main()
