"""Target attention of DIN (arXiv 1706.06978, section 4.3) over jagged pairs, without padding.

For impression n with target vector t_n and each event h_p that it may see, a_p = MLP([t, h, t - h, t * h]) and
out_n = sum_p a_p h_p. The first layer splits exactly: see `AttentionMLP`.

    impressions        0        1    2          N = 3, offsets 0 3 3 5
    pairs              p p p         p p        P = 5
    position_P         4 5 6         0 1        rows of event_TD; an event is stored once, whoever looks at it

Legend: N impressions, T distinct events, P pairs, D width of a vector, H width of the first hidden layer, K of the
last, C codes, N1 = N + 1.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ctr_rec.ops.jagged import check_index, check_offsets
from ctr_rec.ops.target_attention import blocked, jagged, reference
from ctr_rec.ops.target_attention.weights import AttentionMLP, PairCode

__all__ = ["AttentionMLP", "PairCode", "target_attention"]

Backend = Literal["reference", "jagged", "blocked"]
_BACKENDS = {
    "reference": reference.target_attention,
    "jagged": jagged.target_attention,
    "blocked": blocked.target_attention,
}


def target_attention(
    target_ND: Tensor,
    event_TD: Tensor,
    position_P: Tensor,
    offsets_N1: Tensor,
    mlp: AttentionMLP,
    pair_codes: Sequence[PairCode] = (),
    *,
    activation: Literal["relu", "silu"] = "relu",
    normalize: Literal["none", "softmax"] = "none",
    backend: Backend | None = None,
) -> Tensor:
    """Pool the events each impression sees, weighted by an MLP on (target, event): -> float [N, D].

    Args:
        target_ND: float [N, D], query vector of each impression.
        event_TD: float [T, D], vector of each distinct event.
        position_P: int [P], row of `event_TD` of each pair.
        offsets_N1: int [N + 1], pairs of impression n are offsets[n] : offsets[n + 1]; none gives a zero vector.
        mlp: weights with the first layer split.
        pair_codes: buckets of each pair (age, order), each with a learnable row added before the first activation.
        activation: of the hidden layers.
        normalize: "none" as in DIN, or a softmax over each impression's pairs.
        backend: "blocked" (CPU, float32 and float64), "jagged" (any device and type), "reference"; None chooses.

    Gradients reach every floating input and are deterministic.

    Raises:
        ValueError: shapes, types or rows that do not belong together, or a backend that cannot run here.
    """
    pair_codes = tuple(pair_codes)
    _check_vectors(target_ND, event_TD, mlp)
    check_index("position_P", position_P, len(event_TD))
    check_offsets(offsets_N1, len(position_P))
    if len(offsets_N1) != len(target_ND) + 1:
        raise ValueError(
            f"target_attention: expected {len(target_ND) + 1} offsets for {len(target_ND)} targets, "
            f"got {len(offsets_N1)}; pass one offset more than there are impressions"
        )
    _check_codes(pair_codes, len(position_P), len(mlp.b_H))
    if activation not in ("relu", "silu"):
        raise ValueError(f"target_attention: expected activation 'relu' or 'silu', got {activation!r}")
    if normalize not in ("none", "softmax"):
        raise ValueError(f"target_attention: expected normalize 'none' or 'softmax', got {normalize!r}")
    run = _BACKENDS[_choose(target_ND, backend)]
    return run(target_ND, event_TD, position_P, offsets_N1, mlp, pair_codes, activation, normalize)


def _choose(target_ND: Tensor, backend: Backend | None) -> Backend:
    """The one place that knows which path is fastest where."""
    # Under autocast the products change type on the way, which the hand-written backward does not follow.
    autocast = torch.is_autocast_enabled(target_ND.device.type)
    can_block = target_ND.device.type == "cpu" and target_ND.dtype in (torch.float32, torch.float64) and not autocast
    if backend is None:
        return "blocked" if can_block else "jagged"
    if backend not in _BACKENDS:
        raise ValueError(f"target_attention: expected backend in {sorted(_BACKENDS)}, got {backend!r}")
    if backend == "blocked" and not can_block:
        raise ValueError(
            f"target_attention: backend 'blocked' runs on CPU in float32 or float64 without autocast, got "
            f"{target_ND.dtype} on {target_ND.device}, autocast {autocast}; use 'jagged'"
        )
    return backend


def _check_vectors(target_ND: Tensor, event_TD: Tensor, mlp: AttentionMLP) -> None:
    if target_ND.dim() != 2 or event_TD.dim() != 2 or target_ND.shape[1] != event_TD.shape[1]:
        raise ValueError(
            "target_attention: expected target_ND [N, D] and event_TD [T, D] of one width, got "
            f"{tuple(target_ND.shape)} and {tuple(event_TD.shape)}; project one of them first"
        )
    dim, width = target_ND.shape[1], len(mlp.b_H)
    expected: list[tuple[str, Tensor, tuple[int, ...]]] = [
        ("w_target_DH", mlp.w_target_DH, (dim, width)),
        ("w_event_DH", mlp.w_event_DH, (dim, width)),
        ("w_product_DH", mlp.w_product_DH, (dim, width)),
        ("b_H", mlp.b_H, (width,)),
    ]
    for i, (w, b) in enumerate(mlp.hidden):
        expected += [(f"hidden[{i}] weight", w, (width, len(b))), (f"hidden[{i}] bias", b, (len(b),))]
        width = len(b)
    expected += [("w_out_K", mlp.w_out_K, (width,)), ("b_out", mlp.b_out, ())]
    for name, tensor, shape in expected:
        if tuple(tensor.shape) != shape:
            raise ValueError(f"target_attention: expected {name} of shape {shape}, got {tuple(tensor.shape)}")
    if torch.is_autocast_enabled(target_ND.device.type):
        return
    for name, tensor in [("event_TD", event_TD), *((name, tensor) for name, tensor, _ in expected)]:
        if tensor.dtype != target_ND.dtype:
            raise ValueError(
                f"target_attention: expected {name} of target_ND's type {target_ND.dtype}, got {tensor.dtype}; "
                "cast one of them"
            )


def _check_codes(pair_codes: tuple[PairCode, ...], num_pairs: int, width: int) -> None:
    for i, (code_P, bias_CH) in enumerate(pair_codes):
        if bias_CH.dim() != 2 or bias_CH.shape[1] != width:
            raise ValueError(
                f"target_attention: expected pair_codes[{i}] bias [C, {width}], got {tuple(bias_CH.shape)}; its width "
                "is the first hidden layer's"
            )
        check_index(f"pair_codes[{i}]", code_P, len(bias_CH))
        if len(code_P) != num_pairs:
            raise ValueError(f"target_attention: expected {num_pairs} codes in pair_codes[{i}], got {len(code_P)}")
