"""One layer of one channel, post-norm as in Figure 2, and the gated mixing of target tokens between channels.

Legend: C events of the channel, N impressions, U users, P profile tokens of each, A actions, B time buckets,
D width, H heads, E width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ctr_rec.layers.packed import Ranges
from ctr_rec.models.grab.config import Behaviours, GRABSettings, MixGate
from ctr_rec.ops.jagged import gather
from ctr_rec.ops.prefix_attention import Backend, BlockWeights, QueryBias, prefix_attention, softmax_weights

_CODE_STD = 0.02
_GATE_BIAS = -2.0


class GRABLayer(nn.Module):
    """Action-aware attention, Add & Norm, feed-forward, Add & Norm; one set of weights for both kinds of token.

    The logit q . (k + Pos + Action + Time) is scaled as a whole by 1 / sqrt(E) [ours; the paper shows no scale, its
    figure says "scaled"]. Relative action is the key's own action [ours], so its code is added to the key. The full
    token's own key has position 0, time 0 and the action "none" [ours].
    """

    def __init__(self, config: GRABSettings, behaviours: Behaviours, num_actions: int) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads, self.scale = config.heads, config.head_width**-0.5
        self.attention: Backend = config.attention
        self.query = nn.Linear(config.width, inner)
        self.compress = nn.Linear(config.width, config.latent, bias=False) if config.latent is not None else None
        self.key_value = nn.Linear(config.latent or config.width, 2 * inner)
        if config.start_alike:
            with torch.no_grad():
                self.query.weight.copy_(self._key_map(inner))
                self.query.bias.copy_(self.key_value.bias[:inner])
        self.out = nn.Linear(inner, config.width)
        self.position_PE = _codes(behaviours.window + 1, config.head_width) if config.use_position else None
        self.time_BE = _codes(config.ages, config.head_width) if config.use_time else None
        actions = num_actions + 1
        self.action_AE = _codes(actions, config.head_width, config.action_std) if config.bias_says_action else None
        self.attention_norm, self.ffn_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.ffn = nn.Sequential(nn.Linear(config.width, config.ffn), nn.GELU(), nn.Linear(config.ffn, config.width))

    def _key_map(self, inner: int) -> Tensor:
        """From tokens to keys, [inner, D], through the compressed form where there is one."""
        keys = self.key_value.weight[:inner]
        return keys if self.compress is None else keys @ self.compress.weight

    def encode(self, x_CD: Tensor, action_C: Tensor, seen: Ranges | None) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of the events, [C, H, E], and their next tokens; seen: None in the last layer.

        Nobody reads the next tokens there, so they are the old ones.
        """
        k, v = self._keys(x_CD, action_C)
        return k, v, x_CD if seen is None else self._block(x_CD, self._attend(x_CD, k, v, seen))

    def score(
        self, x_ND: Tensor, k: Tensor, v: Tensor, seen: Ranges, profile: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """The next tokens of the impressions, against keys and values of events and their own.

        profile: each impression's keys and values from `profile_keys`, [N, P, H, E].
        """
        own_k, own_v = self._keys(x_ND, None)
        if profile is not None:
            own_k = torch.cat([own_k.unsqueeze(1), profile[0]], dim=1)
            own_v = torch.cat([own_v.unsqueeze(1), profile[1]], dim=1)
        return self._block(x_ND, self._attend(x_ND, k, v, seen, own_k, own_v))

    def profile_keys(self, x_UPD: Tensor, user_N: Tensor, last: bool) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Keys and values of profile tokens for impressions of these users, [N, P, H, E] each, and the next tokens.

        A profile token sees itself alone, so its attention is its own value.
        """
        k, v = self._keys(x_UPD.flatten(0, 1), None)
        shape = (*x_UPD.shape[:2], self.heads, k.shape[-1])
        wide = math.prod(shape[1:])
        keys, values = (gather(kv.reshape(shape[0], wide), user_N).unflatten(1, shape[1:]) for kv in (k, v))
        if not last:
            x_UPD = self._block(x_UPD, self.out(v.flatten(1)).view(x_UPD.shape))
        return (keys, values), x_UPD

    def _keys(self, x: Tensor, action: Tensor | None) -> tuple[Tensor, Tensor]:
        """Keys with their action's code, and values, [rows, H, E] each. action: None for "none"."""
        compressed = x if self.compress is None else self.compress(x)
        k, v = self.key_value(compressed).unflatten(-1, (2, self.heads, -1)).unbind(1)
        if self.action_AE is not None:
            code = self.action_AE[-1] if action is None else self.action_AE[action].unsqueeze(1)
            k = k + code
        return k, v

    def weights(
        self, x_ND: Tensor, k: Tensor, seen: Ranges, profile: tuple[Tensor, Tensor] | None = None
    ) -> Iterator[BlockWeights]:
        """The attention weights behind `score`, a block of impressions at a time, for looking inside."""
        q, bias = self._question(x_ND)
        own_k = self._keys(x_ND, None)[0]
        if profile is not None:
            own_k = torch.cat([own_k.unsqueeze(1), profile[0]], dim=1)
        return softmax_weights(q, k, own_k, bias, scale=self.scale, plan=seen.plan.blocks(joint=False))

    def _question(self, x: Tensor) -> tuple[Tensor, QueryBias]:
        bias = QueryBias(position_PE=self.position_PE, time_BE=self.time_BE)
        return self.query(x).unflatten(-1, (self.heads, -1)), bias

    def _attend(
        self, x: Tensor, k: Tensor, v: Tensor, seen: Ranges, own_k: Tensor | None = None, own_v: Tensor | None = None
    ) -> Tensor:
        q, bias = self._question(x)
        attended = prefix_attention(
            q,
            k,
            v,
            seen.lo,
            seen.hi,
            own_k,
            own_v,
            bias,
            kind="softmax",
            scale=self.scale,
            plan=seen.plan,
            backend=self.attention,
        )
        return self.out(attended.flatten(1))

    def _block(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(attended))
        return self.ffn_norm(x + self.dropout(self.ffn(x)))


def _codes(rows: int, width: int, std: float = _CODE_STD) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, width) * std)


class TargetMix(nn.Module):
    """h~_c = h_c + sum over other channels i of beta_i * h_i, for the target tokens alone (section on CamA).

    beta_i = sigmoid(W_i h + b_i) with h the channel's own target token or all of them [form ours], b = -2 at first.
    """

    def __init__(self, width: int, num_channels: int, gate: MixGate) -> None:
        super().__init__()
        self.joint = gate is MixGate.JOINT
        inputs = width * (num_channels if self.joint else 1)
        self.gates = nn.ModuleList(nn.Linear(inputs, width) for _ in range(num_channels))
        for layer in self.gates:
            assert isinstance(layer, nn.Linear)
            nn.init.constant_(layer.bias, _GATE_BIAS)

    def forward(self, targets: list[Tensor]) -> list[Tensor]:
        """targets: [N, D] of each channel."""
        every = torch.cat(targets, dim=-1) if self.joint else None
        messages = [
            torch.sigmoid(gate(h_ND if every is None else every)) * h_ND
            for gate, h_ND in zip(self.gates, targets, strict=True)
        ]
        total = torch.stack(messages).sum(0)
        return [h_ND + total - message for h_ND, message in zip(targets, messages, strict=True)]
