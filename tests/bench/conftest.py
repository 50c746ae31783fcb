"""A small synthetic log in the form the benches of DIN read."""

from __future__ import annotations

import pytest

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.reader import Reader
from ctr_rec.bench.din_log import textbook_run
from ctr_rec.bench.reader import write_synthetic
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.schema.table import SparseSpec, sparse_spec
from ctr_rec.train.run import Run

Prepared = tuple[Run, SparseSpec, list[Batch]]


@pytest.fixture(scope="package")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    log = tmp_path_factory.mktemp("log")
    write_synthetic(log, users=60, events=3000, items=90)
    run = textbook_run(log, steps=2, impressions=100)
    spec = sparse_spec(load_manifest(log), run.embedding)
    return run, spec, list(Reader(run.data, spec, "train", 0).batches(0))[:3]
