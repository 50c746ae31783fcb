"""Vectors of one width and dtype into those of another. Legend: N rows, S source width, D our width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctr_rec.checkpoint.warm_start.config import TableWarmStart
from ctr_rec.errors import ConfigError
from ctr_rec.sharding.initial import normal_rows

PROJECTION = "warm start projection"
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Widening:
    """words: for the report, "" where widths agree. apply: [N, S] -> float32 [N, D]. keeps_places: column j stays
    column j, so that element-wise optimizer state can follow."""

    words: str
    apply: Callable[[Tensor], Tensor]
    keeps_places: bool


def widening(table: str, stored: int, wanted: int, settings: TableWarmStart) -> Widening:
    """Raises ConfigError for another width that nobody asked to change."""
    if stored == wanted:
        return Widening("", Tensor.float, True)
    rule, change = settings.dim, f"{stored} to {wanted}"
    if rule == "refuse":
        raise ConfigError(
            f"table {table}: the source's vectors have width {stored}, ours have {wanted}; set warm_start.tables."
            f"{table}.dim to project or {'pad' if stored < wanted else 'truncate'}, or embedding.tables.{table}.dim to "
            f"{stored}"
        )
    if rule == "project":
        matrix_SD = projection(stored, wanted, settings.projection_seed)
        words = f"projected {change}, seed {settings.projection_seed}"
        return Widening(words, lambda block: project(block, matrix_SD), False)
    if (rule == "pad") != (stored < wanted):
        raise ConfigError(
            f"table {table}: dim={rule} with width {stored} in the source and {wanted} here; expected "
            f"{'pad' if stored < wanted else 'truncate'} or project"
        )
    if rule == "pad":
        return Widening(f"padded {change}", lambda block: pad(block, wanted), True)
    return Widening(f"truncated {change}", lambda block: block[:, :wanted].float(), False)


def pad(block_NS: Tensor, wanted: int) -> Tensor:
    """Zeros behind."""
    out_ND = torch.zeros(block_NS.shape[0], wanted)
    out_ND[:, : block_NS.shape[1]] = block_NS
    return out_ND


def projection(stored: int, wanted: int, seed: int) -> np.ndarray:
    """float64 [S, D] with orthonormal rows (S <= D) or columns (S > D), from the seed and the widths alone.

    Normal numbers of the generator of initial values, made orthogonal one after the other (Gram and Schmidt, twice:
    Giraud, Langou, Rozloznik, 2005, "The loss of orthogonality in the Gram-Schmidt orthogonalization process").
    """
    low, high = sorted((stored, wanted))
    basis = normal_rows(seed, f"{PROJECTION} {stored} {wanted}", np.arange(low), high, 1.0).astype(np.float64)
    for i in range(low):
        for _ in range(2):
            for j in range(i):
                basis[i] -= (basis[i] * basis[j]).sum() * basis[j]
        basis[i] /= np.sqrt((basis[i] * basis[i]).sum())
    return basis if stored <= wanted else np.ascontiguousarray(basis.T)


def project(block_NS: Tensor, matrix_SD: np.ndarray) -> Tensor:
    """vector P, float32 [N, D], added column by column in float64.

    Not a matrix product: its order of additions, and with it the last bit, may depend on how many rows are at hand.
    """
    out_ND = torch.empty(block_NS.shape[0], matrix_SD.shape[1])
    for start in range(0, block_NS.shape[0], ROWS_AT_ONCE):
        part = block_NS[start : start + ROWS_AT_ONCE].double().numpy()
        total = np.zeros((part.shape[0], matrix_SD.shape[1]))
        for s in range(matrix_SD.shape[0]):
            total += part[:, s : s + 1] * matrix_SD[s]
        out_ND[start : start + ROWS_AT_ONCE] = torch.from_numpy(total)
    return out_ND
