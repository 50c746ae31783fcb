"""Scores a split with a model: on every rank its part, gathered on all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.reader import Reader
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.models.ranker import Branch
from ctr_rec.sharding.group import Group


def predict(
    model: nn.Module,
    reader: Reader,
    group: Group,
    item_is_new: np.ndarray,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[Batch], None] | None = None,
    branch: Branch = Branch.SEQUENCE,
) -> Predictions:
    """Predictions of the reader's whole split, sorted by impression, on every rank.

    item_is_new: bool per item number. progress: called with (batches done, batches in all). watch: called with each
    batch of this rank. branch: whose logits, of a ranker with a second network.
    """
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("impression", "user", "item", "request_time", "history_length", "label", "logit")
    }
    was_training = model.training
    model.eval()
    total = reader.num_batches()
    # Only a ranker knows branches; any other model has one.
    asked = {} if branch is Branch.SEQUENCE else {"branch": branch}
    with torch.no_grad():
        for done, batch in enumerate(reader.batches(epoch=0), start=1):
            logit = model(batch.to(group.device), **asked)
            _append(columns, batch, logit)
            if watch is not None:
                watch(batch)
            if progress is not None:
                progress(done, total)
    model.train(was_training)
    arrays = {name: group.gather_arrays(_join(name, parts)) for name, parts in columns.items()}
    return Predictions(item_is_new=item_is_new[arrays["item"]], **arrays).sorted()


def _append(columns: dict[str, list[np.ndarray]], batch: Batch, logit: torch.Tensor) -> None:
    real = (batch.weight > 0).cpu()  # the stand-in of a rank without impressions is no prediction
    rows = {
        "impression": batch.impression_id,
        "user": batch.user[batch.impression_user],
        "item": batch.item[batch.impression_item],
        "request_time": batch.impression_time,
        "history_length": batch.history_length,
        "label": batch.label,
        "logit": logit.float(),
    }
    for name, values in rows.items():
        columns[name].append(values.cpu()[real].numpy())


def _join(name: str, parts: list[np.ndarray]) -> np.ndarray:
    dtype = np.float32 if name in ("label", "logit") else np.int64
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)
