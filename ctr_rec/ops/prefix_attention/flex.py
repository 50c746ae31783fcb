"""FlexAttention: one compiled kernel on CUDA that gathers the bias per pair; softmax only.

The query-aware bias is what the paper's table trick leaves: s = scale q B^T once per query, captured by score_mod and
read at the pair's position and time bucket. Own keys stand behind the stream's, each visible to its own query. Queries
and keys are padded to whole tiles, which keeps FlexAttention's backward clear of ragged edges (pytorch issue 153799).
On CUDA gradients of the bias are summed by atomic additions, so repeated runs differ in the last bits.

On CPU it runs uncompiled, for comparison only: it keeps all pairs in memory, and torch has no backward there.

Legend: Q queries, C queries with own keys (the last C), K own keys of each, T keys, S keys of the stream and own keys
with padding, H heads, E width of queries and keys, V width of values, P positions, B time buckets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from ctr_rec.errors import ConfigError
from ctr_rec.ops.prefix_attention.bias import Bias, QueryBias
from ctr_rec.ops.prefix_attention.pairs import Pairs

_TILE = 128
_FAR = 2**31 - 1


@dataclass(frozen=True)
class _Tiles:
    """Ranges and times of padded queries and keys. int32 [Q] and [S]; first_own: where own keys begin."""

    lo_Q: Tensor
    hi_Q: Tensor
    owner_S: Tensor
    query_time_Q: Tensor | None
    key_time_S: Tensor | None
    first_own: int
    mask: BlockMask


def flex_prefix_attention(
    q_QHE: Tensor,
    k_THE: Tensor,
    v_THV: Tensor,
    own_k_CKHE: Tensor | None,
    own_v_CKHV: Tensor | None,
    bias: Bias | None,
    pairs: Pairs,
    *,
    scale: float,
) -> Tensor:
    """The same as reference_prefix_attention with kind "softmax".

    Products are made in the dtype of v_THV, sums and bias in float32 at least. Raises ConfigError where gradients are
    wanted on CPU.
    """
    _refuse_gradients(q_QHE, k_THE, v_THV, own_k_CKHE, own_v_CKHV)
    num_own, own_each = (0, 0) if own_k_CKHE is None else own_k_CKHE.shape[:2]
    tiles = pairs.once(("flex", num_own, own_each), lambda: _make_tiles(pairs, num_own, own_each))
    dtype, num_queries = v_THV.dtype, len(q_QHE)
    # Scaled here: as an argument the scale would be a constant of the kernel.
    q_QHE = _padded((scale * q_QHE).to(dtype), len(tiles.lo_Q))
    k_SHE, v_SHV = (_with_own(x, own, tiles).to(dtype) for x, own in ((k_THE, own_k_CKHE), (v_THV, own_v_CKHV)))
    # Autocast would cast the captured bias too.
    with torch.autocast(v_THV.device.type, enabled=False):
        attend = _compiled() if v_THV.is_cuda else flex_attention
        out = attend(
            *(x.transpose(0, 1).unsqueeze(0) for x in (q_QHE, k_SHE, v_SHV)),
            score_mod=_score_mod(bias, q_QHE, pairs, tiles),
            block_mask=tiles.mask,
            scale=1.0,
        )
    assert isinstance(out, Tensor)
    return out[0].transpose(0, 1)[:num_queries]


@functools.cache
def _compiled() -> Callable[..., Any]:
    """Compiled for the sizes of the first batch, then for any, with and without gradients: about five times in all.

    fullgraph: past torch's limit of eight an error, not the uncompiled form, which keeps all pairs in memory.
    """
    return torch.compile(flex_attention, fullgraph=True)


def _refuse_gradients(*inputs: Tensor | None) -> None:
    wanted = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    if wanted and not any(x is not None and x.is_cuda for x in inputs):
        raise ConfigError(
            "prefix_attention: backend 'flex' has gradients on CUDA only, got tensors on the CPU that want gradients; "
            "use 'auto' or 'blocked' there"
        )


def _whole_tiles(rows: int) -> int:
    """At least one tile, so that nothing is ever empty."""
    return max(-(-rows // _TILE), 1) * _TILE


def _padded(x_R: Tensor, rows: int, value: int = 0) -> Tensor:
    return functional.pad(x_R, (0, 0) * (x_R.dim() - 1) + (0, rows - len(x_R)), value=value)


def _with_own(x_THW: Tensor, own_CKHW: Tensor | None, tiles: _Tiles) -> Tensor:
    """Stream rows up to a whole tile, then own rows up to a whole tile, [S, H, W]."""
    x_SHW = _padded(x_THW, tiles.first_own)
    if own_CKHW is None:
        return x_SHW
    own_SHW = _padded(own_CKHW.flatten(0, 1), len(tiles.owner_S) - tiles.first_own)
    return torch.cat([x_SHW, own_SHW.to(x_SHW.dtype)])


def _make_tiles(pairs: Pairs, num_own: int, own_each: int) -> _Tiles:
    pairs.check()
    num_queries, first_own = len(pairs.lo_Q), _whole_tiles(pairs.num_keys)
    rows = _whole_tiles(num_queries)
    total = first_own + (_whole_tiles(num_own * own_each) if num_own * own_each else 0)
    lo_Q, hi_Q = (_padded(x_Q.to(torch.int32), rows) for x_Q in (pairs.lo_Q, pairs.hi_Q))
    owner_S = torch.full((total,), -1, dtype=torch.int32, device=lo_Q.device)
    owners = torch.arange(num_queries - num_own, num_queries, dtype=torch.int32, device=lo_Q.device)
    owner_S[first_own : first_own + num_own * own_each] = owners.repeat_interleave(own_each)
    query_time_Q = key_time_S = None
    if pairs.num_buckets:
        query_time_Q, key_time_T = pairs.times()
        query_time_Q, key_time_S = _padded(query_time_Q, rows), _padded(key_time_T, total)

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return ((j >= lo_Q[i]) & (j < hi_Q[i])) | (owner_S[j] == i)

    mask = _block_mask(lo_Q, hi_Q, owner_S, visible)
    return _Tiles(lo_Q, hi_Q, owner_S, query_time_Q, key_time_S, first_own, mask)


def _block_mask(lo_Q: Tensor, hi_Q: Tensor, owner_S: Tensor, visible: Callable[..., Tensor]) -> BlockMask:
    """Which tiles hold a visible pair, and which hold no hidden one, from the ranges alone: nothing of size Q x S."""
    empty_Q = lo_Q == hi_Q
    low = lo_Q.masked_fill(empty_Q, _FAR).view(-1, _TILE).amin(1, keepdim=True)
    high = hi_Q.masked_fill(empty_Q, 0).view(-1, _TILE).amax(1, keepdim=True)
    start = torch.arange(0, len(owner_S), _TILE, device=lo_Q.device)
    stop = start + _TILE
    full = (lo_Q.view(-1, _TILE).amax(1, keepdim=True) <= start) & (hi_Q.view(-1, _TILE).amin(1, keepdim=True) >= stop)
    owners = owner_S.view(-1, _TILE)
    first_owner, last_owner = owners.masked_fill(owners < 0, _FAR).amin(1), owners.amax(1)
    row = torch.arange(0, len(lo_Q), _TILE, device=lo_Q.device).unsqueeze(1)
    own = (last_owner >= row) & (first_owner < row + _TILE)
    some = ((low < stop) & (high > start) | own) & ~full
    return BlockMask.from_kv_blocks(
        *_listed(some), *_listed(full), BLOCK_SIZE=_TILE, mask_mod=visible, seq_lengths=(len(lo_Q), len(owner_S))
    )


def _listed(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Number of wanted tiles in each row and their indices first, as BlockMask stores them."""
    count, index = wanted.sum(1), wanted.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return count.to(torch.int32)[None, None], index.to(torch.int32)[None, None]


def _scores(bias: Bias, q_QHE: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Bias of each scaled query for every position and every time bucket, [H, Q, P] and [H, Q, B]."""
    query_aware = isinstance(bias, QueryBias)
    tables = (bias.position_PE, bias.time_BE) if query_aware else (bias.position_PH, bias.time_BH)
    least = torch.promote_types(q_QHE.dtype, torch.float32)

    def score(table: Tensor | None) -> Tensor | None:
        if table is None:
            return None
        if query_aware:
            # Not einsum, whose result is a view: compiled, a captured view loses its gradient (torch 2.13).
            codes_HEN = table.to(least).t().expand(q_QHE.shape[1], -1, -1)
            return torch.bmm(q_QHE.to(least).transpose(0, 1), codes_HEN)
        return table.to(least).t().unsqueeze(1).repeat(1, len(q_QHE), 1)

    return score(tables[0]), score(tables[1])


def _score_mod(bias: Bias | None, q_QHE: Tensor, pairs: Pairs, tiles: _Tiles) -> Callable[..., Tensor] | None:
    """Adds the bias; an own key lies behind every range, so it finds position 0 and is given bucket 0."""
    position_HQP, time_HQB = (None, None) if bias is None else _scores(bias, q_QHE)
    hi_Q, query_time_Q, key_time_S = tiles.hi_Q, tiles.query_time_Q, tiles.key_time_S
    last_position, last_bucket = pairs.num_positions - 1, pairs.num_buckets - 1
    edges = None if pairs.time_edges_G is None else tuple(pairs.once("edges", pairs.time_edges_G.tolist))

    def position(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        assert position_HQP is not None
        return position_HQP[h, i, (hi_Q[i] - j).clamp(0, last_position)]

    def time(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        assert time_HQB is not None
        assert query_time_Q is not None
        assert key_time_S is not None
        bucket = _bucket(query_time_Q[i] - key_time_S[j], last_bucket, edges)
        return time_HQB[h, i, torch.where(j < hi_Q[i], bucket, 0)]

    def by_position(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + position(h, i, j)

    def by_time(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + time(h, i, j)

    def by_both(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + position(h, i, j) + time(h, i, j)

    if position_HQP is None:
        return None if time_HQB is None else by_time
    return by_position if time_HQB is None else by_both


def _bucket(seconds: Tensor, last: int, edges: tuple[int, ...] | None) -> Tensor:
    """time_bucket in operations that a kernel can hold: no search, no view of bits, no float64."""
    seconds = seconds.clamp(min=0)
    if edges is not None:
        bucket = torch.zeros_like(seconds)
        for edge in edges:
            if edge <= torch.iinfo(seconds.dtype).max:
                bucket = bucket + (seconds >= max(edge, 0))
        return bucket.clamp(max=last)
    # With the bit below the highest cleared a number is below 1.5 x 2^b, and no rounding takes it to 2^(b + 1).
    from_one = seconds + 1
    rounded = (from_one & ~(from_one >> 1)).to(torch.float32)
    # Its log2 lies below b + 0.585, and on a GPU perhaps a little below b. A literal: a global would become a tensor.
    return torch.floor(torch.log2(rounded) + 0.2).to(torch.int32).clamp(max=last)
