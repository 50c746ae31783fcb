"""The setting `attention` decides which backend of the attention op runs; the scores are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.models.grab.config import Behaviours
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.tower import TowerConfig
from ctr_rec.ops.prefix_attention import attention
from tests.models.streams import Scorer, random_log

BACKENDS = ("blocked", "fbgemm", "flex", "reference")
GRAB: dict[str, Any] = {
    "width": 8,
    "heads": 2,
    "head_width": 3,
    "ffn": 6,
    "span": 50,
    "channels": {"all": Behaviours(window=40), "few": Behaviours(actions=(2, 3), window=3)},
}
TOWERS: dict[str, Callable[[str], TowerConfig]] = {
    "grab": lambda name: GRABConfig(**GRAB, attention=name),  # pyright: ignore[reportArgumentType]
    "grab_profile_tokens": lambda name: GRABConfig(**GRAB, profile_tokens=True, attention=name),  # pyright: ignore[reportArgumentType]
    "hstu": lambda name: HSTUConfig(width=8, heads=2, head_width=3, window=4, attention=name),  # pyright: ignore[reportArgumentType]
}


def _spied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    called: list[str] = []
    for name in BACKENDS:
        run = getattr(attention, f"{name}_prefix_attention")

        def spy(*inputs: Any, name: str = name, run: Any = run, **options: Any) -> Any:
            called.append(name)
            return run(*inputs, **options)

        monkeypatch.setattr(attention, f"{name}_prefix_attention", spy)
    return called


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("name", BACKENDS)
def test_the_backend_asked_for_computes_the_same_scores(tower: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if (tower, name) == ("hstu", "flex"):
        with pytest.raises(ValidationError, match="attention"):
            HSTUConfig.model_validate({"attention": name})
        return
    called, log = _spied(monkeypatch), random_log(seed=3)
    want = Scorer(TOWERS[tower]("auto")).float().score(log)
    assert set(called) == {"blocked"}
    called.clear()
    got = Scorer(TOWERS[tower](name)).float().score(log)
    assert set(called) == {name}
    assert got == pytest.approx(want, rel=0, abs=1e-5)
