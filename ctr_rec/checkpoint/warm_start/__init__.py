"""Warm start: tables (and dense weights) of a team's present model, row by row under the same id.

A table's rows stand for other ids in every model: a vocabulary is re-counted, a hash gets another size. Copying rows by
position gives every id the vector of another one, without a word. Here each row of ours asks for its id in the source,
and a report says how many were found.

**Sources** (`WarmStart.source`), read by rows in slices, nothing stored in them is ever run:

- a checkpoint of PyTorch's distributed format (DCP): a run folder of ours, one of its checkpoints, or any TorchRec
  job's (tables are tensors named `...embeddings.<table>.weight` or `...embedding_bags.<table>.weight`, the state of
  their optimizer `...<table>.weight.<...>momentum1`, `sum`, `exp_avg`...);
- safetensors, a file or a folder, with the same names;
- Parquet of `id`, `vector` and `state_<key>`, as any parameter server can export: `<folder>/<table>.parquet` or part
  files `<folder>/<table>/*.parquet`; vectors of float16, float32 or float64.

**Ids.** Our rows are known by the log's vocabulary. A source's rows are known by (`TableWarmStart.ids`)

    VocabularyIds   a vocabulary: a prepared log, or any Parquet of (id, row[, count])
    HashedIds       the stated hash (schema/hashing.py) with the source's own number of rows
    OwnIds          the `id` column of a Parquet source
    MapIds          a Parquet map of (id, source_row), or of (id, source_id) on top of one of the others

Left out, they follow from the source: a Parquet source has its own; a run of ours names its log; `WarmStart.log` names
the prepared log of any other. All of it becomes one question: which source row, or none, for each row of ours.

- Row 0 (out-of-vocabulary) is carried only where the source is a checkpoint of ours, whose row 0 means the same. Ids
  that one side keeps in row 0 have no row of their own there and match nothing.
- A hashed table whose number of rows divides ours needs no ids: row r is its row 1 + (r - 1) mod rows, exactly.
- Several source rows for one of ours (vocabulary to hash) are refused unless `many_to_one` says "most_frequent" (by
  the source's counts, else by ours) or "mean". One source row for several of ours comes from a hashed source or a map.
- Candidates are found by a 64-bit hash of the id, and each is compared by its text. A vocabulary that is ours byte for
  byte (another tower on the same log) is not searched: its rows are ours.

**Widths.** `dim`: refuse, pad (zeros behind), truncate, or project: vector_new = vector_old P with a fixed random P
with orthonormal rows (widening: lengths and dot products are kept) or columns (narrowing: the squared length shrinks to
D_new / D_old of it on average). P follows from `projection_seed` and the widths alone.

**Optimizer state.** Row-wise Adagrad's one number per row is carried whatever the width; element-wise Adagrad's only
with equal or padded width; other kinds start anew, and the report says why.

**New rows** keep the table's initialiser, or take the mean of the matched rows, or the source's own hash bucket.

**Other weights** (`dense`) are taken by name where shapes agree; what is left out is listed.

**To look before and after**: `ctr-rec warm-start RECIPE.py:FUNCTION --dry-run` prints the report from ids alone, and
`ctr-rec warm-start verify TARGET` (a recipe, or a run's folder) builds the run anew, starts it warm, and scores a
validation batch with its tables and with vectors taken straight from the source, id by id (straight.py).

**Refused**, unless `force`: a source trained on times of our validation or test range. The manifest of our checkpoints
carries that range, other sources state `trained_until`; unknown is a warning.

Every rank reads only what its own shards need, and the result is the same to the bit on any number of ranks: rows are
copied, means are sums of whole numbers, and projections are added term by term in one order.

Reading order: config.py, apply.py; then opening.py and source.py (where rows lie), row_map.py and id_index.py (which
row), fill.py (writing).
"""
