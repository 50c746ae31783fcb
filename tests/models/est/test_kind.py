"""A kind of behaviours: tokens of its sequences' own places, or of the stream, read at places of the readers."""

from __future__ import annotations

import torch

from ctr_rec.layers.behaviours import Sequences
from ctr_rec.models.est.attention import LCA
from ctr_rec.models.est.kind import Kind, Streamed

WIDTH = 4
# Five events; the first two readers share a sequence, the third reads two events of it and one more.
OF = Sequences(torch.tensor([0, 1, 2, 1, 2, 4]), torch.tensor([0, 3, 6]), torch.tensor([0, 0, 1]))


def test_tokens_stand_at_their_own_places_or_at_those_of_their_readers() -> None:
    plain, streamed = Kind(OF, None), Kind(OF, None, Streamed(5, ()))
    assert (plain.num_tokens, streamed.num_tokens) == (6, 5)
    own_PD, event_TD = torch.randn(6, WIDTH), torch.randn(5, WIDTH)
    assert plain.read(own_PD).x_PD is own_PD
    assert streamed.read(event_TD).x_PD.equal(event_TD[OF.position_P])
    assert streamed.read(event_TD).sequences is OF


def test_what_is_projected_is_tokens_and_tables_of_places() -> None:
    tables = ((torch.randn(3, WIDTH), torch.zeros(6, dtype=torch.int64)), (torch.randn(7, WIDTH), torch.arange(6)))
    assert Kind(OF, None).num_projected == 6
    assert Kind(OF, None, Streamed(5, tables)).num_projected == 5 + 3 + 7


def test_attention_reads_a_stream_as_it_reads_copies_of_it() -> None:
    """Places join a token's keys and values as if they had been added to it."""
    torch.manual_seed(0)
    lca = LCA(("a", "b"), WIDTH, 2, "auto").double()
    n_NLD, event_TD = torch.randn(3, 2, WIDTH).double(), torch.randn(5, WIDTH).double().requires_grad_()
    table_OD, row_P = torch.randn(4, WIDTH).double().requires_grad_(), torch.tensor([2, 1, 0, 3, 3, 0])
    copied = lca(n_NLD, [event_TD[OF.position_P] + table_OD[row_P]], [Kind(OF, None)])
    shared = lca(n_NLD, [event_TD], [Kind(OF, None, Streamed(5, ((table_OD, row_P),)))])
    torch.testing.assert_close(shared, copied, rtol=0, atol=1e-12)
    inputs = [event_TD, table_OD, *lca.parameters()]
    for got, want in zip(
        torch.autograd.grad(shared.square().sum(), inputs),
        torch.autograd.grad(copied.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)
