"""Encoders as ONNX files: onnxruntime gives the same features as ours, for any number of images."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contrastive_jax import convert as command
from contrastive_jax import pretrained
from contrastive_jax.augment.policy import Policy
from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import export, onnx_files, pixels
from tests.pretrained.encoders import random_encoder

ENCODERS: dict[str, dict[str, Any]] = {
    'resnet': {'name': 'resnet_tiny', 'width': 8, 'stem': 'imagenet'},
    'byol': {'name': 'resnet_tiny', 'width': 8, 'stem': 'imagenet', 'padding': 'same'},
    'selective': {'name': 'resnet50', 'stage_sizes': [1, 1], 'width': 8, 'padding': 'simclr', 'sk_ratio': 0.0625},
    'mocov3': {'name': 'vit_small', 'width': 48, 'depth': 2, 'num_heads': 3, 'patch_size': 8},
    'conv': {'name': 'vit_conv_small', 'width': 32, 'depth': 2, 'num_heads': 2},
    'dino': {'name': 'dino_small', 'width': 48, 'depth': 2, 'num_heads': 3, 'patch_size': 8},
    'cmc': {'name': 'split_resnet_tiny', 'width': 4},
}


@pytest.mark.parametrize('name', ENCODERS)
def test_features(tmp_path: Path, name: str) -> None:
    pytest.importorskip('jax2onnx')
    import onnx
    import onnxruntime

    policy = Policy(**pixels.NORMALIZATIONS['lab' if name == 'cmc' else 'half'])
    made = random_encoder(ENCODERS[name], policy)
    said: list[str] = []
    export.write(tmp_path / 'x.onnx', made, say=said.append)
    session = onnxruntime.InferenceSession(str(tmp_path / 'x.onnx'), providers=['CPUExecutionProvider'])
    rng = np.random.default_rng(1)
    for count in (1, 5):
        images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        (h,) = session.run(None, {'images': images.transpose(0, 3, 1, 2).astype(np.float32) / 255})
        expected = made.module.apply(made.variables, made.policy.normalize(images), train=False)
        np.testing.assert_allclose(h, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    model = onnx.load(str(tmp_path / 'x.onnx'))
    onnx.checker.check_model(model)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about['encoder']) == made.architecture
    assert about['images'].startswith('float32 [B, 3, 32, 32], RGB in [0, 1]; normalized in the file: ')
    assert any('images: float32 [B, 3, 32, 32]' in line for line in said)


def test_features_that_differ_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('jax2onnx')
    monkeypatch.setattr(onnx_files, 'TOLERANCE', 0.0)
    pretrained.save(tmp_path / 'x.safetensors', random_encoder(ENCODERS['resnet']))
    assert command.main([str(tmp_path / 'x.safetensors'), str(tmp_path / 'x.onnx')]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ['x.safetensors']


def test_without_jax2onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing jax2onnx is reported before the input is read."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'jax2onnx' else found(name))
    assert command.main([str(tmp_path / 'nothing.pth'), str(tmp_path / 'x.onnx')]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and "needs jax2onnx -> pip install 'jax2onnx" in error


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('jax2onnx')
    monkeypatch.setattr(onnx_files, 'MAX_BYTES', 1000)
    with pytest.raises(UserError, match='more than the 2 GiB'):
        onnx_files.write(tmp_path / 'x', random_encoder(ENCODERS['resnet']))
