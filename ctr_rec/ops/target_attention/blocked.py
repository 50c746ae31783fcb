"""Target attention on CPU: pairs walked in blocks that stay in cache, backward written by hand.

What is saved against the plain form, for P pairs of width D and first layer H:
- the target and event parts of the first layer are products of N and T rows, not P, and reach a pair by one pooled
  look-up over [event part; target part; code tables]; only the product part is a matrix product over pairs;
- nothing of width 4D exists, and of width D only two blocks of scratch;
- kept for backward: the hidden layers' activations, in memory that is used again in the next step; backward turns the
  first of them into its gradient in place. Above KEEP_BYTES nothing is kept and each block is computed again;
- gradients of events are sums over sorted pairs (`jagged.bag`), hence deterministic.

Legend: see the package; L look-ups per pair, B pairs of a block, W width of a hidden layer.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ctr_rec.ops.jagged import bag
from ctr_rec.ops.target_attention.activation import ACTIVATIONS, Activation
from ctr_rec.ops.target_attention.plan import Block, Plan, make_plan
from ctr_rec.ops.target_attention.threads import walk_in_parts
from ctr_rec.ops.target_attention.weights import AttentionMLP, PairCode
from ctr_rec.ops.target_attention.workspace import WORKSPACE, Lease

BLOCK_PAIRS = 4096
"""Pairs of a block: 64 floats each are 1 MB, what a second-level cache holds; 1024 to 8192 are within
a tenth of each other, and larger blocks pay less for the calls."""
KEEP_BYTES = 1 << 29
"""Most memory kept from forward to backward by one call."""


class Call(NamedTuple):
    """Everything of a call that is not differentiable."""

    plan: Plan
    codes: tuple[Tensor, ...]
    activation: Activation
    softmax: bool
    keep: bool


class Net(NamedTuple):
    """The differentiable inputs, by name again."""

    target_ND: Tensor
    event_TD: Tensor
    w_target_DH: Tensor
    w_event_DH: Tensor
    w_product_DH: Tensor
    b_H: Tensor
    w_out_K: Tensor
    b_out: Tensor
    hidden: tuple[tuple[Tensor, Tensor], ...]
    biases: tuple[Tensor, ...]

    @staticmethod
    def of(call: Call, tensors: tuple[Tensor, ...]) -> "Net":
        num_hidden = (len(tensors) - 8 - len(call.codes)) // 2
        rest = tensors[8:]
        hidden = tuple((rest[2 * i], rest[2 * i + 1]) for i in range(num_hidden))
        return Net(*tensors[:8], hidden=hidden, biases=rest[2 * num_hidden :])

    @property
    def widths(self) -> list[int]:
        return [len(self.b_H), *(len(b) for _, b in self.hidden)]


def target_attention(
    target_ND: Tensor,
    event_TD: Tensor,
    position_P: Tensor,
    offsets_N1: Tensor,
    mlp: AttentionMLP,
    pair_codes: tuple[PairCode, ...],
    activation: str,
    normalize: str,
) -> Tensor:
    plan = make_plan(position_P, offsets_N1, BLOCK_PAIRS)
    tensors = (
        *(target_ND, event_TD, mlp.w_target_DH, mlp.w_event_DH, mlp.w_product_DH, mlp.b_H, mlp.w_out_K, mlp.b_out),
        *(tensor for layer in mlp.hidden for tensor in layer),
        *(code.bias_CH for code in pair_codes),
    )
    width = len(mlp.b_H) + sum(len(b) for _, b in mlp.hidden)
    fits = plan.num_pairs * width * target_ND.element_size() <= KEEP_BYTES
    keep = fits and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    codes = tuple(code.code_P.int() for code in pair_codes)
    call = Call(plan, codes, ACTIVATIONS[activation], normalize == "softmax", keep)
    return BlockedAttention.apply(call, *(tensor.contiguous() for tensor in tensors))


class BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: Call, *tensors: Tensor) -> Tensor:
        net = Net.of(call, tensors)
        kept = _take_layers(call, net) if call.keep else None
        score_P = _score(call, net, kept)
        if call.softmax:
            score_P = bag.SegmentSoftmax.apply(score_P[:, None], call.plan.offsets_N1)[:, 0]
        pooled_ND = bag.pooled(net.event_TD, call.plan.position_P, call.plan.offsets_N1, score_P)
        ctx.save_for_backward(*tensors, score_P, pooled_ND)
        ctx.call, ctx.kept = call, kept
        return pooled_ND

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_ND: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        *tensors, score_P, pooled_ND = ctx.saved_tensors
        call, net = ctx.call, Net.of(ctx.call, tuple(tensors))
        # Backward overwrites what was kept: a second backward over the same graph finds None and computes again.
        kept, ctx.kept = ctx.kept, None
        gradient = _Gradient(call, net, grad_ND.contiguous(), score_P, pooled_ND, kept)
        return None, *gradient.run()


def _take_layers(call: Call, net: Net) -> list[Lease]:
    return [WORKSPACE.take(call.plan.num_pairs, width, net.b_H.dtype) for width in net.widths]


def _score(call: Call, net: Net, kept: list[Lease] | None) -> Tensor:
    """Score of each pair before normalisation: -> [P]."""
    plan = call.plan
    score_P = net.b_out.new_empty(plan.num_pairs)
    first = _first_layer(call, net)

    def work(blocks: list[Block]) -> None:
        walk = _Walk(call, net, first)
        for block in blocks:
            rows = slice(block.start, block.end)
            layers = walk.scratch_layers(block) if kept is None else [lease.tensor[rows] for lease in kept]
            walk.load(block)
            walk.forward(block, layers)
            x_BW = call.activation.value(layers[-1], walk.value_scratch(len(layers) - 1, block))
            torch.mv(x_BW, net.w_out_K, out=score_P[rows])

    walk_in_parts(plan.blocks, work)
    WORKSPACE.give(first.table)
    return score_P.add_(net.b_out)


class _FirstLayer(NamedTuple):
    """Every addend of the first layer but the product, as rows of one table, and the rows that each pair adds."""

    table: Lease
    rows_PL: Tensor
    stride_B1: Tensor


def _first_layer(call: Call, net: Net) -> _FirstLayer:
    rows_PL = _first_layer_rows(call, net)
    num_rows = rows_PL.shape[1]
    stride_B1 = torch.arange(0, call.plan.largest_block * num_rows + 1, num_rows, dtype=torch.int32)
    return _FirstLayer(_first_layer_table(net), rows_PL, stride_B1)


class _Walk:
    """Scratch of one thread's walk over blocks, and the forward of one block."""

    def __init__(self, call: Call, net: Net, first: _FirstLayer) -> None:
        self.call, self.net, self.first = call, net, first
        size, dim = call.plan.largest_block, net.target_ND.shape[1]
        empty = net.target_ND.new_empty
        self._event, self._target, self._product = (empty(size, dim) for _ in range(3))
        self._values = [empty(size, width) for width in net.widths]
        self._layers = [empty(size, width) for width in net.widths]

    def load(self, block: Block) -> None:
        """Bring the vectors of a block's pairs into scratch: event_BD, target_BD and their product."""
        size, rows, plan = block.end - block.start, slice(block.start, block.end), self.call.plan
        self.event_BD, self.target_BD, self.product_BD = (x[:size] for x in (self._event, self._target, self._product))
        torch.index_select(self.net.event_TD, 0, plan.position_P[rows], out=self.event_BD)
        torch.index_select(self.net.target_ND, 0, plan.impression_P[rows], out=self.target_BD)
        torch.mul(self.event_BD, self.target_BD, out=self.product_BD)

    def forward(self, block: Block, layers: list[Tensor]) -> None:
        """Hidden layers of the loaded block; `layers` receives what the activation keeps of each."""
        act = self.call.activation
        rows_L = self.first.rows_PL[block.start : block.end].view(-1)
        pre_BH = bag.pooled(self.first.table.tensor, rows_L, self.first.stride_B1[: block.end - block.start + 1])
        pre_BH.addmm_(self.product_BD, self.net.w_product_DH)
        act.keep(pre_BH, layers[0])
        for i, (w, b) in enumerate(self.net.hidden):
            x_BW = act.value(layers[i], self.value_scratch(i, block))
            torch.addmm(b, x_BW, w, out=layers[i + 1])
            act.keep(layers[i + 1], layers[i + 1])

    def scratch_layers(self, block: Block) -> list[Tensor]:
        return [layer[: block.end - block.start] for layer in self._layers]

    def value_scratch(self, layer: int, block: Block) -> Tensor:
        return self._values[layer][: block.end - block.start]


def _first_layer_table(net: Net) -> Lease:
    """[event part; target part and bias; code tables]: every addend of the first layer as rows of one table."""
    num_events, num_targets = len(net.event_TD), len(net.target_ND)
    num_rows = num_events + num_targets + sum(len(bias) for bias in net.biases)
    lease = WORKSPACE.take(num_rows, len(net.b_H), net.b_H.dtype)
    torch.mm(net.event_TD, net.w_event_DH, out=lease.tensor[:num_events])
    torch.addmm(net.b_H, net.target_ND, net.w_target_DH, out=lease.tensor[num_events : num_events + num_targets])
    at = num_events + num_targets
    for bias_CH in net.biases:
        lease.tensor[at : at + len(bias_CH)] = bias_CH
        at += len(bias_CH)
    return lease


def _first_layer_rows(call: Call, net: Net) -> Tensor:
    """Rows of the first-layer table that each pair adds: -> int32 [P, L]."""
    at = len(net.event_TD)
    rows = [call.plan.position_P, call.plan.impression_P + at]
    at += len(net.target_ND)
    for code_P, bias_CH in zip(call.codes, net.biases, strict=True):
        rows.append(code_P + at)
        at += len(bias_CH)
    return torch.stack(rows, dim=1)


class _Sums(NamedTuple):
    """Gradients of weights that every block adds to: one set for each thread, summed at the end."""

    product_DH: Tensor
    out_K: Tensor
    hidden: list[tuple[Tensor, Tensor]]

    @staticmethod
    def zeros(net: Net) -> "_Sums":
        hidden = [(torch.zeros_like(w), torch.zeros_like(b)) for w, b in net.hidden]
        return _Sums(torch.zeros_like(net.w_product_DH), torch.zeros_like(net.w_out_K), hidden)

    def add(self, other: "_Sums") -> None:
        self.product_DH.add_(other.product_DH)
        self.out_K.add_(other.out_K)
        for (w, b), (other_w, other_b) in zip(self.hidden, other.hidden, strict=True):
            w.add_(other_w)
            b.add_(other_b)


class _Gradient:
    """One backward: accumulators, the walk over the blocks, and the sums over pairs at the end."""

    def __init__(
        self, call: Call, net: Net, grad_ND: Tensor, score_P: Tensor, pooled_ND: Tensor, kept: list[Lease] | None
    ) -> None:
        self.call, self.net, self.grad_ND, self.score_P = call, net, grad_ND, score_P
        self.recompute = kept is None
        num_pairs, dim = call.plan.num_pairs, net.target_ND.shape[1]
        if kept is None:
            kept = [WORKSPACE.take(num_pairs, len(net.b_H), net.b_H.dtype)]
        self.kept = kept
        self.event_grad = WORKSPACE.take(num_pairs, dim, net.b_H.dtype)
        # sum over an impression's pairs of share * (grad . event), which the softmax subtracts, is grad . pooled.
        self.mean_N = (grad_ND * pooled_ND).sum(dim=1) if call.softmax else None
        self.d_score_P = torch.empty_like(score_P)
        self.d_target_ND = torch.zeros_like(net.target_ND)
        self.d_target_part_NH = net.b_H.new_zeros(len(net.target_ND), len(net.b_H))

    def run(self) -> list[Tensor]:
        """Gradients in the order of the forward's tensors."""
        first = _first_layer(self.call, self.net)
        parts = walk_in_parts(self.call.plan.blocks, lambda blocks: self._walk(blocks, first))
        WORKSPACE.give(first.table)
        sums = _Sums.zeros(self.net)
        for part in parts:
            sums.add(part)
        return self._finish(sums)

    def _walk(self, blocks: list[Block], first: _FirstLayer) -> _Sums:
        """One thread's blocks: rows of the shared outputs that are its own, and sums for it alone."""
        walk, sums = _Walk(self.call, self.net, first), _Sums.zeros(self.net)
        size = self.call.plan.largest_block
        every_B = torch.arange(size, dtype=torch.int32)
        scratch = [self.net.b_H.new_empty(size, width) for width in self.net.widths]
        for block in blocks:
            walk.load(block)
            layers = self._layers(walk, block)
            self._score_gradient(walk, block)
            block_scratch = [x[: block.end - block.start] for x in scratch]
            d_pre_BH = self._layer_gradients(walk, block, layers, block_scratch, sums)
            sums.product_DH.addmm_(walk.product_BD.t(), d_pre_BH)
            self._pair_gradients(walk, block, d_pre_BH, every_B)
        return sums

    def _layers(self, walk: _Walk, block: Block) -> list[Tensor]:
        kept = [lease.tensor[block.start : block.end] for lease in self.kept]
        if not self.recompute:
            return kept
        layers = [kept[0], *walk.scratch_layers(block)[1:]]
        walk.forward(block, layers)
        return layers

    def _score_gradient(self, walk: _Walk, block: Block) -> None:
        rows = slice(block.start, block.end)
        impression_B, d_score_B = self.call.plan.impression_P[rows], self.d_score_P[rows]
        grad_BD = self.event_grad.tensor[rows]
        torch.index_select(self.grad_ND, 0, impression_B, out=grad_BD)
        torch.sum(grad_BD.mul_(walk.event_BD), dim=1, out=d_score_B)
        if self.mean_N is not None:
            d_score_B.sub_(self.mean_N.index_select(0, impression_B)).mul_(self.score_P[rows])

    def _layer_gradients(
        self, walk: _Walk, block: Block, layers: list[Tensor], scratch: list[Tensor], sums: _Sums
    ) -> Tensor:
        """Walk the hidden layers down; returns the gradient of the first pre-activation, kept for all pairs."""
        act, d_score_B = self.call.activation, self.d_score_P[block.start : block.end]
        last = len(layers) - 1
        x_BW = act.value(layers[last], walk.value_scratch(last, block))
        sums.out_K.addmv_(x_BW.t(), d_score_B)
        # What was kept of a layer is not needed once its gradient is known, so the gradient takes its place.
        d_BW = torch.outer(d_score_B, self.net.w_out_K, out=scratch[last])
        for i in range(last, 0, -1):
            act.backward(d_BW, layers[i], d_BW)
            x_BW = act.value(layers[i - 1], walk.value_scratch(i - 1, block))
            d_w, d_b = sums.hidden[i - 1]
            d_w.addmm_(x_BW.t(), d_BW)
            d_b.add_(d_BW.sum(dim=0))
            d_BW = torch.mm(d_BW, self.net.hidden[i - 1][0].t(), out=scratch[i - 1])
        act.backward(d_BW, layers[0], layers[0])
        return layers[0]

    def _pair_gradients(self, walk: _Walk, block: Block, d_pre_BH: Tensor, every_B: Tensor) -> None:
        first, last = block.first, block.last
        offsets = self.call.plan.offsets_N1[first : last + 1] - block.start
        every_B = every_B[: block.end - block.start]
        d_BD = torch.mm(d_pre_BH, self.net.w_product_DH.t(), out=walk.product_BD)
        torch.mul(d_BD, walk.target_BD, out=self.event_grad.tensor[block.start : block.end])
        self.d_target_ND[first:last] = bag.pooled(d_BD.mul_(walk.event_BD), every_B, offsets)
        self.d_target_part_NH[first:last] = bag.pooled(d_pre_BH, every_B, offsets)

    def _finish(self, sums: _Sums) -> list[Tensor]:
        """Sums over pairs into events and codes, and the first layer's weights."""
        net, plan = self.net, self.call.plan
        d_pre_PH = self.kept[0].tensor
        order_P, offsets_T1 = bag.sort_by_row(plan.position_P, len(net.event_TD))
        d_event_part_TH = bag.pooled(d_pre_PH, order_P, offsets_T1)
        d_event_TD = bag.pooled(self.event_grad.tensor, order_P, offsets_T1)
        d_event_TD += bag.pooled(self.grad_ND, plan.impression_P[order_P], offsets_T1, self.score_P[order_P])
        d_event_TD.addmm_(d_event_part_TH, net.w_event_DH.t())
        self.d_target_ND.addmm_(self.d_target_part_NH, net.w_target_DH.t())
        d_codes = [
            bag.sum_by_row(d_pre_PH, code_P, len(bias))
            for code_P, bias in zip(self.call.codes, net.biases, strict=True)
        ]
        for lease in (*self.kept, self.event_grad):
            WORKSPACE.give(lease)
        return [
            self.d_target_ND,
            d_event_TD,
            net.target_ND.t() @ self.d_target_part_NH,
            net.event_TD.t() @ d_event_part_TH,
            sums.product_DH,
            self.d_target_part_NH.sum(dim=0),
            sums.out_K,
            self.d_score_P.sum(),
            *(gradient for layer in sums.hidden for gradient in layer),
            *d_codes,
        ]
