"""What is kept of users' histories to score candidates against: keys and values, layer by layer, and their clocks.

    users            0           1            offsets = [0, 3, 5]
    events           a b c       d e          time, known_at: one each
    channel "liked"  a   c         e          event_C = [0, 2, 4], keys and values of every layer: one row each

Plain tensors: they can be stored, moved, cut to single users and put side by side again.

Legend: U users, T events, C events of a channel, H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch

_WORD = 8  # bytes of an int64


@dataclass(frozen=True)
class ChannelState:
    """event_C: positions of the channel's events among those of the state, ascending; None where it holds all.

    keys, values: of each layer, [C, H, E].
    """

    event_C: Tensor | None
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def apply(self, fn: Callable[[Tensor], Tensor]) -> ChannelState:
        event_C = None if self.event_C is None else fn(self.event_C)
        return ChannelState(event_C, tuple(map(fn, self.keys)), tuple(map(fn, self.values)))


@dataclass(frozen=True)
class HistoryState:
    """State of U users: int64 offsets [U + 1] and dropped [U]; int64 time and known_at [T]; channels by name.

    dropped: how many older events of the user it once held. A candidate may not look back beyond what is left.
    """

    offsets: Tensor
    dropped: Tensor
    time: Tensor
    known_at: Tensor
    channels: dict[str, ChannelState]

    @classmethod
    def of(cls, batch: Batch, channels: dict[str, ChannelState]) -> HistoryState:
        """State of all events of a batch."""
        dropped_U = torch.zeros_like(batch.event_offsets[1:])
        return cls(batch.event_offsets, dropped_U, batch.event_time, batch.event_known_at, channels)

    @property
    def num_users(self) -> int:
        return self.dropped.shape[0]

    @property
    def num_events(self) -> int:
        return self.time.shape[0]

    @property
    def num_bytes(self) -> int:
        """Of its own tensors; views of larger ones count what they show."""
        found: list[int] = []
        self.apply(lambda t: (found.append(t.numel() * t.element_size()), t)[1])
        return sum(found)

    def apply(self, fn: Callable[[Tensor], Tensor]) -> HistoryState:
        channels = {name: channel.apply(fn) for name, channel in self.channels.items()}
        return HistoryState(fn(self.offsets), fn(self.dropped), fn(self.time), fn(self.known_at), channels)

    def to(self, device: torch.device) -> HistoryState:
        return self.apply(lambda t: t.to(device))

    def clone(self) -> HistoryState:
        """In memory of its own: a view of one user would keep the whole batch alive."""
        return self.apply(lambda t: t.clone())

    def user(self, row: int, newest: int | None = None) -> HistoryState:
        """One user's, or only its newest events. Views."""
        low, high = self.offsets[row : row + 2].tolist()
        cut = max(0, high - low - newest) if newest is not None else 0
        low += cut
        channels = {name: _part(channel, low, high) for name, channel in self.channels.items()}
        offsets = self.offsets.new_tensor([0, high - low])
        return HistoryState(
            offsets, self.dropped[row : row + 1] + cut, self.time[low:high], self.known_at[low:high], channels
        )

    @staticmethod
    def join(states: Sequence[HistoryState]) -> HistoryState:
        """Users of several states, one after the other; at least one."""
        if len(states) == 1:
            return states[0]
        first = states[0]
        lengths = torch.cat([s.offsets[1:] - s.offsets[:-1] for s in states])
        before = torch.tensor([0, *(s.num_events for s in states)]).cumsum(0).tolist()
        return HistoryState(
            torch.cat([first.offsets[:1], lengths.cumsum(0)]),
            torch.cat([s.dropped for s in states]),
            torch.cat([s.time for s in states]),
            torch.cat([s.known_at for s in states]),
            {name: _join([s.channels[name] for s in states], before) for name in first.channels},
        )


def kept_events(batch: Batch, newest: int) -> Tensor:
    """Whether an event is one of its user's newest, bool [T]: what a state of so many events holds."""
    lengths_U = batch.event_offsets[1:] - batch.event_offsets[:-1]
    end_T = batch.event_offsets[1:].repeat_interleave(lengths_U)
    return end_T - torch.arange(batch.num_events, device=end_T.device) <= newest


def bytes_of_states(num_users: int, num_events: int, channels: Iterable[tuple[int, bool]], row: int) -> int:
    """Bytes of the states of single users. channels: events of each, and whether their positions are kept.

    row: bytes of keys and values of one event in all layers of a channel.
    """
    total = num_users * 3 * _WORD + num_events * 2 * _WORD
    return total + sum(count * (row + (_WORD if positions else 0)) for count, positions in channels)


def _part(channel: ChannelState, low: int, high: int) -> ChannelState:
    """Of the events low:high of the state."""
    event_C = channel.event_C
    if event_C is not None:
        first, last = torch.searchsorted(event_C, event_C.new_tensor([low, high])).tolist()
        event_C = event_C[first:last] - low
        low, high = first, last
    return ChannelState(event_C, tuple(k[low:high] for k in channel.keys), tuple(v[low:high] for v in channel.values))


def _join(channels: list[ChannelState], before: list[int]) -> ChannelState:
    """before: events of the state that come before each part."""
    events = [c.event_C + shift for c, shift in zip(channels, before, strict=False) if c.event_C is not None]
    layers = range(len(channels[0].keys))
    return ChannelState(
        torch.cat(events) if events else None,
        tuple(torch.cat([c.keys[depth] for c in channels]) for depth in layers),
        tuple(torch.cat([c.values[depth] for c in channels]) for depth in layers),
    )
