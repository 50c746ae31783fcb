"""FuxiCTR's whole training loop on the rows of our batches: its feature map, loader, layers, optimizer and `fit`.

Only public classes of an installed `fuxictr` are used; its own DIN lies outside of its wheel, so the model is composed
of its layers here: shared item embedding, an attention for each history, and an MLP over all fields.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctr_rec.batch.batch import Batch
from ctr_rec.bench.din_log import LAST, WIDTH
from ctr_rec.bench.padded_din import PaddedHistory, pad
from ctr_rec.schema.table import SparseSpec

LABEL, TARGET = "label", "item"
NEVER = 1 << 40


def missing() -> str | None:
    """Why FuxiCTR cannot be measured here, or None."""
    if importlib.util.find_spec("fuxictr") is None:
        return "fuxictr is not installed"
    try:
        importlib.import_module("fuxictr.pytorch.models")
        importlib.import_module("fuxictr.pytorch.dataloaders")
    except ImportError as error:
        return f"fuxictr is installed but does not import: {error}"
    return None


@dataclass(frozen=True)
class Loop:
    """A model and a loader that are ready; `seconds` runs one epoch of FuxiCTR's `fit` over the rows."""

    model: Any
    loader: Any
    impressions: int

    def seconds(self) -> float:
        start = time.perf_counter()
        self.model.fit(self.loader, epochs=1)
        return time.perf_counter() - start


@contextmanager
def open_loop(batches: list[Batch], spec: SparseSpec) -> Iterator[Loop]:
    """FuxiCTR's form of the rows in `batches`, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows(batches, spec)
        np.savez(Path(folder) / "rows.npz", **rows)  # pyright: ignore[reportArgumentType]
        channels = list(batches[0].histories)
        feature_map = _feature_map(Path(folder), spec, channels)
        loaders = importlib.import_module("fuxictr.pytorch.dataloaders")
        loader, _ = loaders.RankDataLoader(
            feature_map,
            stage="train",
            train_data=str(Path(folder) / "rows.npz"),
            batch_size=batches[0].global_impressions,
            shuffle=True,
        )
        model = _model(feature_map, channels, folder)
        # `fit` ends by loading the best weights, so there have to be some.
        Path(model.checkpoint).parent.mkdir(parents=True, exist_ok=True)
        model.save_weights(model.checkpoint)
        yield Loop(model, loader, len(rows[LABEL]))


def _rows(batches: list[Batch], spec: SparseSpec) -> dict[str, np.ndarray]:
    """One column per field, histories padded with 0; items are counted from 1 as FuxiCTR keeps 0 for padding."""
    columns: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        row_of_item = _item_rows(batch, spec)
        columns.setdefault(TARGET, []).append(row_of_item[batch.impression_item].numpy())
        for feature in spec.bag_features():
            bag = batch.user_bags[feature.name]
            first_U = bag.values[bag.offsets[:-1]] + 1
            columns.setdefault(feature.name, []).append(first_U[batch.impression_user].numpy())
        for name, history in pad(batch, LAST).items():
            columns.setdefault(name, []).append(_padded_rows(history, row_of_item).numpy())
        columns.setdefault(LABEL, []).append(batch.label.numpy())
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _item_rows(batch: Batch, spec: SparseSpec) -> torch.Tensor:
    ids = batch.items.ids[spec.item[0].name]
    return batch.tables[ids.table][ids.index] + 1


def _padded_rows(history: PaddedHistory, row_of_item: torch.Tensor) -> torch.Tensor:
    return row_of_item[history.item_NL] * history.mask_NL


def _feature_map(folder: Path, spec: SparseSpec, channels: list[str]) -> Any:
    table = spec.item[0].table
    assert table is not None
    item = {"type": "categorical", "padding_idx": 0, "vocab_size": spec.table(table).rows + 1, "source": ""}
    fields: dict[str, dict[str, object]] = {TARGET: item}
    for feature in spec.bag_features():
        assert feature.table is not None
        fields[feature.name] = {"type": "categorical", "vocab_size": spec.table(feature.table).rows + 1, "source": ""}
    for name in channels:
        fields[name] = {**item, "type": "sequence", "max_len": LAST, "share_embedding": TARGET}
    described = {
        "dataset_id": "rows",
        "num_fields": len(fields),
        "total_features": 0,
        "input_length": 0,
        "labels": [LABEL],
        "features": [{name: field} for name, field in fields.items()],
    }
    path = folder / "feature_map.json"
    path.write_text(json.dumps(described))
    feature_map = importlib.import_module("fuxictr.features").FeatureMap("rows", str(folder))
    feature_map.load(str(path), {"embedding_dim": WIDTH})
    return feature_map


def _model(feature_map: Any, channels: list[str], folder: str) -> Any:
    layers = importlib.import_module("fuxictr.pytorch.layers")
    base = importlib.import_module("fuxictr.pytorch.models").BaseModel

    class DIN(base):  # type: ignore[misc,valid-type]
        """Defined here because its base class exists only where fuxictr does."""

        def __init__(self) -> None:
            super().__init__(
                feature_map,
                model_id="din",
                eval_steps=NEVER,
                verbose=0,
                model_root=folder,
                metrics=["AUC"],
            )
            self.embedding = layers.FeatureEmbeddingDict(feature_map, WIDTH)
            self.attention = torch.nn.ModuleList(
                layers.DIN_Attention(WIDTH, attention_units=[64, 32], use_softmax=False) for _ in channels
            )
            self.mlp = layers.MLP_Block(
                input_dim=feature_map.sum_emb_out_dim(),
                output_dim=1,
                hidden_units=[128, 64],
                output_activation=self.output_activation,
                dropout_rates=0.1,
            )
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            fields = self.get_inputs(inputs)
            embedded = self.embedding(fields)
            for name, attention in zip(channels, self.attention, strict=True):
                embedded[name] = attention(embedded[TARGET], embedded[name], fields[name].long() != 0)
            return {"y_pred": self.mlp(self.embedding.dict2tensor(embedded, flatten_emb=True))}

    return DIN()
