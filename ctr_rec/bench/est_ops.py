"""EST's tensor ops: cross-attention over jagged keys against padded SDPA, and retrieval from a long history.

Legend: N impressions, L query tokens of each, P keys of all, H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ctr_rec.bench.grab_attention import even_lengths, largest_so_far, printed_by, skewed_lengths
from ctr_rec.bench.record import Emit, Timing, emit_rate, measure
from ctr_rec.ops.cross_attention import KeySet, cross_attention
from ctr_rec.ops.retrieval import Categories, Retrieved, most_recent_matching, top_k_by_similarity

IMPRESSIONS, QUERIES, HEADS, WIDTH, MEAN = 1024, 20, 1, 64, 50
SAME = 1e-4
EVENTS, CANDIDATES, TOP, CONTENT, CATEGORIES = 5000, 60, 50, (64, 128, 384), 200


@dataclass(frozen=True)
class Keys:
    """tensors: q [N, L, H, E], k and v [P, H, E]. row_P: place of each key in the flattened rectangle."""

    lengths: list[int]
    offsets_N1: Tensor
    row_P: Tensor
    tensors: list[Tensor]

    @property
    def density(self) -> float:
        return sum(self.lengths) / (len(self.lengths) * max(self.lengths))


def make_keys(lengths: list[int], queries: int = QUERIES, heads: int = HEADS, width: int = WIDTH) -> Keys:
    generator = torch.Generator().manual_seed(0)
    shapes = ((len(lengths), queries, heads, width), *((sum(lengths), heads, width),) * 2)
    length_N = torch.tensor(lengths)
    offsets_N1 = torch.cat([length_N.new_zeros(1), length_N.cumsum(0)])
    impression_P = torch.repeat_interleave(length_N)
    row_P = impression_P * max(lengths) + torch.arange(sum(lengths)) - offsets_N1[impression_P]
    tensors = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    return Keys(lengths, offsets_N1, row_P, tensors)


def jagged(keys: Keys) -> Tensor:
    q, k, v = keys.tensors
    return cross_attention(q, [KeySet(k, v, keys.offsets_N1)], q.shape[3] ** -0.5)


def padded(keys: Keys) -> Tensor:
    """The same with keys padded to the longest and PyTorch's own attention under a mask."""
    q, k, v = (x.transpose(1, 2) for x in (keys.tensors[0], *(_rectangle(x, keys) for x in keys.tensors[1:])))
    mask_NK = torch.arange(max(keys.lengths)) < torch.tensor(keys.lengths)[:, None]
    mask = mask_NK[:, None, None].expand(-1, 1, q.shape[2], -1)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def _rectangle(x_PHE: Tensor, keys: Keys) -> Tensor:
    longest = max(keys.lengths)
    rows = x_PHE.new_zeros(len(keys.lengths) * longest, *x_PHE.shape[1:])
    return rows.index_copy(0, keys.row_P, x_PHE).unflatten(0, (-1, longest))


FORMS: dict[str, Callable[[Keys], Tensor]] = {"jagged": jagged, "padded": padded}


def step(form: str, keys: Keys) -> list[Tensor]:
    """Forward and backward: the output and the gradients of q, k and v."""
    out = FORMS[form](keys)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return [out.detach(), *torch.autograd.grad(out, keys.tensors, grad)]


def difference(keys: Keys) -> float:
    """Largest relative difference of both forms, in norm, of the output and of every gradient."""
    pairs = zip(step("jagged", keys), step("padded", keys), strict=True)
    return max(((a - b).norm() / b.norm().clamp(min=1e-12)).item() for a, b in pairs)


def emit_attention(emit: Emit, runs: int) -> None:
    """Part (c) of EST's bench: cross-attention over jagged keys against padded SDPA, at two densities."""
    for lengths in (skewed_lengths(IMPRESSIONS, 4 * MEAN, MEAN), even_lengths(IMPRESSIONS, 2 * MEAN)):
        keys = make_keys(lengths)
        case = f"cross-attention, {IMPRESSIONS} impressions of {QUERIES} tokens, longest {max(lengths)}, "
        case += f"{keys.density:.0%} dense, against padded SDPA"
        what = "relative difference of outputs and gradients"
        emit("est", case, what, difference(keys), "", goal=f"<= {SAME}")
        both = measure({form: partial(step, form, keys) for form in FORMS}, runs=runs)
        emit_rate(emit, "est", case, "keys/s, forward and backward", sum(lengths), both["jagged"], both["padded"], None)
        with torch.no_grad():
            only = measure({form: partial(attend, keys) for form, attend in FORMS.items()}, runs=runs)
        emit_rate(emit, "est", case, "keys/s, forward", sum(lengths), only["jagged"], only["padded"], None)
        peaks = {form: peak_bytes(form, lengths) for form in FORMS}
        emit(
            "est",
            case,
            "peak memory of forward and backward",
            peaks["jagged"] / 2**20,
            "MiB",
            baseline=peaks["padded"] / 2**20,
            ratio=peaks["padded"] / max(peaks["jagged"], 1.0),
        )


def peak_bytes(form: str, lengths: list[int], runs: int = 3) -> float:
    """By how much forward and backward raise a process' largest memory, measured in processes of their own."""
    return printed_by(f"from ctr_rec.bench.est_ops import raised; print(raised({form!r}, {lengths}))", runs)


def raised(form: str, lengths: list[int]) -> int:
    """Runs in a process of its own. A first pass over few keys loads what any pass needs."""
    step(form, make_keys([3, 1]))
    keys = make_keys(lengths)
    before = largest_so_far()
    step(form, keys)
    return largest_so_far() - before


def searches(candidates: int, events: int, content: int) -> dict[str, Callable[[], Retrieved]]:
    """One request's candidates search one user's history: by similarity of vectors, and by category."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(n, content, generator=generator) for n in (candidates, events))
    wanted, offered = (
        Categories(torch.randint(0, CATEGORIES, (n,), generator=generator)) for n in (candidates, events)
    )
    histories = torch.arange(events).repeat(candidates), torch.arange(0, candidates * events + 1, events)
    return {
        "similarity": lambda: top_k_by_similarity(query, key, None, *histories, TOP),
        "category": lambda: most_recent_matching(wanted, offered, *histories, TOP),
    }


def emit_retrieval(emit: Emit, runs: int) -> None:
    """Part (d) of EST's bench: milliseconds of retrieval for all candidates of a request."""
    for content in CONTENT:
        found = searches(CANDIDATES, EVENTS, content)
        timings = measure(found, runs=runs)
        if content == CONTENT[0]:
            _emit_milliseconds(emit, "most recent of the candidate's category", timings["category"])
        _emit_milliseconds(emit, f"most similar, vectors of {content}", timings["similarity"])


def _emit_milliseconds(emit: Emit, what: str, timing: Timing) -> None:
    case = f"retrieve {TOP} of {EVENTS:,} events for {CANDIDATES} candidates, {what}"
    low, high = 1000 * timing.min, 1000 * timing.max
    emit("est", case, "all candidates", 1000 * timing.median, "ms", min=low, max=high, runs=timing.runs)
