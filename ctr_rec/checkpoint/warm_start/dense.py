"""Weights that are no tables, by name. Every rank holds and reads them whole; their optimizer starts anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ctr_rec.checkpoint.stored_tensor import StoredTensor
from ctr_rec.checkpoint.warm_start.source import FLOATS, Source
from ctr_rec.config import Config
from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.models.ranker import BESIDE
from ctr_rec.sharding.tables import is_table


class DenseReport(Config):
    """loaded: our name to the source's. left_out: our name to the reason why it keeps its initial value."""

    rule: str
    loaded: dict[str, str] = Field(default_factory=dict)
    left_out: dict[str, str] = Field(default_factory=dict)


def dense_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Live weights and buffers that are no tables, by name."""
    state = model.state_dict()
    return {name: value for name, value in state.items() if isinstance(value, Tensor) and not is_table(name)}


def plan_dense(
    ours: Mapping[str, tuple[int, ...]], source: Source, rule: Literal["none", "matching", "beside"] | Mapping[str, str]
) -> DenseReport:
    """Which of our weights (name to shape) come from which of the source's.

    Raises:
        ConfigError: a map names a weight that one side does not have.
        CheckpointError: a map joins weights of other shapes, or something that is no tensor; the second network is not
            the source's.
    """
    if rule == "beside":
        loaded = _second_network(ours, source)
        left_out = {name: "not of the second network" for name in ours if name not in loaded}
        return DenseReport(rule="beside", loaded=loaded, left_out=left_out)
    if rule == "none":
        return DenseReport(rule="none", left_out={name: "dense=none" for name in ours})
    if rule == "matching":
        found = {name: _named_like(name, source) for name in ours}
        reasons = {name: _misfit(shape, found[name], source) for name, shape in ours.items()}
        return DenseReport(
            rule="matching",
            loaded={name: str(found[name]) for name, reason in reasons.items() if reason is None},
            left_out={name: reason for name, reason in reasons.items() if reason is not None},
        )
    assert not isinstance(rule, str)
    for name, theirs in rule.items():
        if name not in ours:
            raise ConfigError(f"warm_start.dense names {name!r}, the model has {', '.join(sorted(ours))}")
        reason = _misfit(ours[name], theirs, source)
        if reason is not None:
            raise CheckpointError(f"warm_start.dense: {name} from {theirs}: {reason}; remove it from the map")
    return DenseReport(rule="map", loaded=dict(rule), left_out={n: "not in the map" for n in ours if n not in rule})


def _second_network(ours: Mapping[str, tuple[int, ...]], source: Source) -> dict[str, str]:
    """From the names of our second network to those that the source's own network has."""
    names = [name for name in ours if name.startswith(BESIDE)]
    if not names:
        raise ConfigError("warm_start.dense=beside, but the run has no second network; set beside, or another dense")
    found = {name: _named_like(name.removeprefix(BESIDE), source) for name in names}
    wrong = {name: reason for name in names if (reason := _misfit(ours[name], found[name], source))}
    if wrong:
        first = next(iter(wrong))
        raise CheckpointError(
            f"warm_start.dense=beside: {source.path} holds another network than beside, {len(wrong)} of {len(names)} "
            f"weights do not fit ({first}: {wrong[first]}); give beside, its embedding.dim, embedding.exclude and "
            "data.channels the source's settings"
        )
    return {name: str(theirs) for name, theirs in found.items()}


def _named_like(name: str, source: Source) -> str | None:
    """The source's tensor of this name, or the only one that has it behind a prefix (model., module., ...)."""
    for exact in (name, f"model.{name}"):
        if exact in source.dense:
            return exact
    found = [theirs for theirs in source.dense if theirs.endswith(f".{name}")]
    return found[0] if len(found) == 1 else None


def _misfit(shape: tuple[int, ...], theirs: str | None, source: Source) -> str | None:
    if theirs is None:
        return "the source has none of this name"
    if theirs in source.unread:
        return f"the entry {theirs} is no tensor, or one in pieces, and nothing else is read"
    if theirs not in source.dense:
        return f"{source.path} has no weight {theirs!r}"
    stored = source.dense[theirs]
    if tuple(stored.shape) != tuple(shape):
        return f"shape {tuple(stored.shape)} in the source, {tuple(shape)} here"
    return None


@torch.no_grad()
def load_dense(model: nn.Module, source: Source, report: DenseReport) -> None:
    """Raises CheckpointError where a weight is not finite or its file ends too early."""
    live = dense_tensors(model)
    for name, theirs in report.loaded.items():
        value = read_whole(source.dense[theirs], theirs)
        if value.dtype in FLOATS and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{source.dense[theirs].path}: weight {theirs} is not finite; leave it out of dense")
        live[name].copy_(value)


def read_whole(stored: StoredTensor, name: str) -> Tensor:
    value = torch.empty(stored.shape, dtype=stored.dtype)
    try:
        stored.read_into(value, [0] * len(stored.shape))
    except EOFError as error:
        raise CheckpointError(f"{name}: {error}; copy the source again") from error
    return value
