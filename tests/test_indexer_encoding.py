"""Encoders that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.encoding import EncoderError, load_encoder


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
