import numpy as np

from ctr_rec.schema.hashing import hash64, hashed_rows


def test_the_hash_is_the_stated_one() -> None:
    # BLAKE2b of "abc" with 8 bytes, as any other implementation has it.
    assert hash64(["abc"]).tolist() == [int.from_bytes(bytes.fromhex("d8bb14d833d59559"), "little")]
    assert hash64([12]).tolist() == hash64(["12"]).tolist()
    assert hash64([]).tolist() == []


def test_rows_begin_at_the_first_bucket() -> None:
    ids = [f"i{n}" for n in range(50)]
    rows = hashed_rows(ids, 7)
    assert rows.tolist() == (1 + (hash64(ids) % np.uint64(7)).astype(np.int64)).tolist()
    assert hashed_rows(ids, 7, first=0).tolist() == (rows - 1).tolist()
