from __future__ import annotations

import numpy as np
import pytest
import torch

from ctr_rec.checkpoint.warm_start.config import TableWarmStart
from ctr_rec.checkpoint.warm_start.widths import project, projection, widening
from ctr_rec.errors import ConfigError


@pytest.mark.parametrize(("stored", "wanted"), [(8, 16), (16, 64), (16, 8), (7, 7)])
def test_projections_are_orthonormal_and_keep_dot_products_when_widening(stored: int, wanted: int) -> None:
    matrix = projection(stored, wanted, 3)
    small = matrix @ matrix.T if stored <= wanted else matrix.T @ matrix
    np.testing.assert_allclose(small, np.eye(min(stored, wanted)), rtol=0, atol=1e-12)
    assert np.array_equal(matrix, projection(stored, wanted, 3))
    assert not np.array_equal(matrix, projection(stored, wanted, 4))
    if stored <= wanted:
        vectors = torch.randn(50, stored)
        new = project(vectors, matrix)
        np.testing.assert_allclose(new @ new.T, vectors @ vectors.T, rtol=0, atol=1e-4)


def test_a_projected_row_does_not_depend_on_its_neighbours() -> None:
    vectors, matrix = torch.randn(9000, 12), projection(12, 20, 0)
    whole = project(vectors, matrix)
    for rows in (slice(0, 1), slice(17, 5000), slice(4095, 4097)):
        assert torch.equal(project(vectors[rows], matrix), whole[rows])
    np.testing.assert_allclose(whole.numpy(), vectors.double().numpy() @ matrix, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
def test_dtypes_become_float32(dtype: torch.dtype) -> None:
    block = torch.randn(5, 4).to(dtype)
    assert torch.equal(widening("t", 4, 4, TableWarmStart()).apply(block), block.float())
    for rule, wanted in (("pad", 6), ("truncate", 3), ("project", 6)):
        found = widening("t", 4, wanted, TableWarmStart.model_validate({"dim": rule}))
        assert found.apply(block).shape == (5, wanted)
        assert found.apply(block).dtype == torch.float32
        assert found.words.startswith(rule)
        assert found.keeps_places == (rule == "pad")


def test_another_width_unasked_or_the_wrong_way() -> None:
    with pytest.raises(ConfigError, match=r"table t: the source's vectors have width 4, ours have 8; set .*t.dim to"):
        widening("t", 4, 8, TableWarmStart())
    with pytest.raises(ConfigError, match=r"table t: dim=pad with width 8 in the source and 4 here; expected truncate"):
        widening("t", 8, 4, TableWarmStart(dim="pad"))
    with pytest.raises(ConfigError, match=r"dim=truncate with width 4 in the source and 8 here; expected pad or"):
        widening("t", 4, 8, TableWarmStart(dim="truncate"))
