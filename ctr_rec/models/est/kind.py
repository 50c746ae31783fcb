"""What the layers of EST know of one kind of behaviours, recent or retrieved: the same in all of them.

Legend: R tokens of the kind, P places of the sequences that read them, D token width, O rows of a table of places.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.token_inputs import Behaviours
from ctr_rec.ops.content_neighbours import Neighbours
from ctr_rec.ops.jagged import gather


@dataclass(frozen=True)
class Streamed:
    """Tokens that are the batch's packed events, each once, whoever reads it.

    places: pairs of a table [O, D] and which row of it stands for each place, [P]: what a token's order and age say
    differs from reader to reader, so no token holds it.
    """

    num_events: int
    places: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class Kind:
    """sequences: who reads which tokens. neighbours: what CSA sums for each token; None: no CSA.

    streamed None: token p is place p of the sequences, and is read there alone.
    """

    sequences: Sequences
    neighbours: Neighbours | None
    streamed: Streamed | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.sequences.position_P) if self.streamed is None else self.streamed.num_events

    @property
    def num_projected(self) -> int:
        """Rows that LCA makes keys and values of: tokens, and those of the tables of places."""
        return self.num_tokens + (sum(len(t) for t, _ in self.streamed.places) if self.streamed is not None else 0)

    def read(self, x_RD: Tensor) -> Behaviours:
        """The tokens as their readers hold them, at the places of the sequences."""
        return Behaviours(x_RD if self.streamed is None else gather(x_RD, self.sequences.position_P), self.sequences)
