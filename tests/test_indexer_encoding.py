"""Encoders that are refused, and the number format of those that are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexer.encoding import EncoderError, Passage, load_encoder


def test_unknown_bundled_encoder_names_those_there_are() -> None:
    with pytest.raises(EncoderError, match="unknown encoder 'bundled:big'; bundled are: all-minilm-l6-v2"):
        load_encoder("bundled:big")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(EncoderError, match=r"holds no \.safetensors weights"):
        load_encoder(str(tmp_path))
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "model.safetensors").write_bytes(b"")
    with pytest.raises(EncoderError, match="pickled weights are refused"):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize("native", [True, False])
def test_passages_are_multiplied_in_bfloat16_only_where_the_processor_does_so_natively(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    passage = Passage("Lamp\nThe lamp glows amber. It is made of brass and glass.", ((5, 26), (27, 60)))
    monkeypatch.setattr("indexer.encoding.cpu_multiplies_bfloat16", lambda: False)
    exact = load_encoder("bundled:all-minilm-l6-v2")
    monkeypatch.setattr("indexer.encoding.cpu_multiplies_bfloat16", lambda: native)
    encoder = load_encoder("bundled:all-minilm-l6-v2")
    (wanted,), (vectors,) = exact.encode_passages([passage]), encoder.encode_passages([passage])
    assert encoder.id == exact.id
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, wanted) is not native
    assert (vectors * wanted).sum(axis=1).min() > 0.999
