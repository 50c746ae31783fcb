"""EST's mechanisms: each planted effect of alike content with what reads it, without that, and with a placebo.

The placebo: the same model on the same clicks, with every item's content vector swapped for another's. As in
mechanisms.py. Where EST reads a request's scene by the own query of its token, the other arm is full attention, which
must see it too: the paper claims the same for less.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctr_rec.batch.config import Channel
from ctr_rec.batch.planted import SyntheticConfig
from ctr_rec.bench.mechanisms import NO_TIME, SMALL_MLP, Arm, Mechanism, run_all
from ctr_rec.bench.record import Emit
from ctr_rec.layers.behaviours import BehaviourSettings
from ctr_rec.layers.retrieval import RetrievalSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.full_attention import FullAttentionConfig
from ctr_rec.models.est.tower import ESTConfig

RECENT = 20
WORLD: dict[str, Any] = {
    "users": 600,
    "items": 20_000,
    "requests_per_user": 16,
    "requests_sigma": 0.4,
    "spread": 0.0,
    "clusters": 24,
    "content_dim": 32,
    "recent": RECENT,
}
CHANNELS = {"recent": Channel(last=RECENT), "lifelong": Channel(last=5_000)}
RETRIEVAL = RetrievalSettings(channel="lifelong", most=50, feature="content")
# Item ids are seen too seldom to be learnt; what is left of an item is its group.
NO_ITEM = ("item",)
# Tiers of likeness are learnt in the first steps. What needs a match of learnt vectors stays where it began for a
# thousand steps and then leaps, so it has small batches and a large rate.
TIERS: dict[str, Any] = {"lr": 4e-3}
MATCHES: dict[str, Any] = {"lr": 1e-2, "impressions": 256}


def _tokens(**settings: Any) -> TokenSettings:
    plain = BehaviourSettings(use_action=False, use_order=False, use_age=False)
    return TokenSettings(width=32, content="content", context=NO_TIME, behaviour=plain, **settings)


def _est(how: dict[str, Any], layers: int = 1, csa: bool = False, **tokens: Any) -> Arm:
    tower = ESTConfig(tokens=_tokens(**tokens), layers=layers, csa=csa, mlp=SMALL_MLP)
    return Arm(tower, CHANNELS, NO_ITEM, **how)


def est_mechanisms() -> list[Mechanism]:
    """Every planted effect that EST has a mechanism for."""
    full = Arm(FullAttentionConfig(tokens=_tokens(), layers=1, mlp=SMALL_MLP), CHANNELS, NO_ITEM, **MATCHES)
    far: dict[str, Any] = {"onboarding": 160, "episode": 8, "enough": 8}
    retrieved, tiers = _est(TIERS, simtier=True, retrieval=RETRIEVAL), _est(TIERS, simtier=True)
    near, alone = _est(MATCHES, 2, csa=True), _est(MATCHES, 2)
    return [
        _row("lifelong_taste", 4.0, "retrieval of the lifelong history (GSU)", retrieved, tiers, far, 3),
        _row("content_interest", 2.0, "tiers of likeness (SimTier)", tiers, _est(TIERS), {"per_family": 3}, 4),
        _row("neighbour_context", 6.0, "neighbours by content (CSA)", near, alone, {}, 14),
        _row("token_interaction", 3.0, "LCA, not full attention", _est(MATCHES), full, {"scenes": 4}, 14, apart=False),
    ]


def _row(
    effect: str, strength: float, switch: str, on: Arm, off: Arm, world: dict[str, Any], epochs: int, apart: bool = True
) -> Mechanism:
    own, other = (SyntheticConfig(**WORLD, **world, content=content) for content in ("own", "shuffled"))
    placebo = other if apart else None
    return Mechanism(effect, strength, "EST", switch, on, off, own, epochs, placebo=placebo, apart=apart)


def run(emit: Emit, log: Path | None = None) -> None:
    """As mechanisms.run, for EST alone. `log` is not used."""
    del log
    run_all(emit, est_mechanisms(), "est_mechanisms")
