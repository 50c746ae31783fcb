"""Buffers: canonical order of impressions and the events of channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ctr_rec.batch.buffer import make_buffer
from ctr_rec.batch.config import Channel, Pointwise
from ctr_rec.batch.memory import Memory
from ctr_rec.batch.source import Source
from ctr_rec.schema.table import EmbeddingSettings, sparse_spec
from tests.batch.logs import random_users, schema, write_log


def test_impressions_are_ordered_by_user_and_visible_end(tmp_path: Path) -> None:
    manifest = write_log(tmp_path, random_users(2, count=9), log_schema=schema(action_delay=4))
    spec = sparse_spec(manifest, EmbeddingSettings(dim=4))
    source = Source(str(tmp_path), manifest, spec, "liked", "train")
    channels = {"some": Channel(actions=(2, 0)), "all": Channel(), "rare": Channel(actions=(2,))}
    slices = source.read(manifest.row_groups)
    buffer = make_buffer(slices, 4, channels, Pointwise(impressions=7), 3, None, Memory())
    found = buffer.impressions
    order = list(zip(found.user, found.visible, buffer.slices.own, strict=True))
    assert order == sorted(order)
    assert buffer.slices.own.tolist() != sorted(buffer.slices.own.tolist())  # requests interleave in this log
    assert (buffer.known_at == buffer.slices.time + 4).all()
    action = buffer.slices.action
    for name, wanted in (("some", (0, 2)), ("all", (0, 1, 2)), ("rare", (2,))):
        selected = buffer.channels[name]
        assert selected.event.tolist() == [t for t in range(len(action)) if action[t] in wanted]
        assert selected.before.tolist() == [int(np.isin(action[:t], wanted).sum()) for t in range(len(action) + 1)]
