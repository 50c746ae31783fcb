"""Writes a file of item vectors and the JSON beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_rec.files import write_json
from ctr_rec.prepare.vectors import normalised
from ctr_rec.schema.content import ITEM_ID, VECTOR, ContentInfo, info_path


def write_vectors(file: Path, ids: pa.Array, vectors_ND: npt.NDArray[np.floating], info: ContentInfo) -> None:
    """Replaces FILE.parquet and FILE.json; vectors are scaled to length 1, zeros stay zeros.

    ids: raw item ids, [N]. The JSON comes last: a file that is being replaced never has the new one's description.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    info_path(file).unlink(missing_ok=True)
    flat = pa.array(normalised(vectors_ND).reshape(-1), pa.float32())
    vectors = pa.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1])
    temporary = file.with_name(f".{file.name}.tmp")
    pq.write_table(pa.table({ITEM_ID: ids, VECTOR: vectors}), temporary, compression="zstd")
    temporary.replace(file)
    write_json(info_path(file), info.model_dump(mode="json"))
