"""Encoders with random weights, whose features differ from image to image."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from contrastive_jax.augment.policy import Policy
from contrastive_jax.pretrained import pixels
from contrastive_jax.pretrained.assemble import assemble, shapes
from contrastive_jax.pretrained.encoder import Encoder

VIT = {'width': 48, 'depth': 2, 'num_heads': 3, 'patch_size': 8}
STAGES = {'stage_sizes': [1, 1], 'width': 8}


def random_encoder(architecture: dict[str, Any], policy: Policy = pixels.IMAGENET, size: int = 32) -> Encoder:
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape) / 4 for name, shape in shapes(architecture, size).items()}
    arrays |= {name: np.abs(x) + 0.5 for name, x in arrays.items() if name.endswith(('var', 'scale'))}
    return assemble(architecture, arrays, size, 'seed 0', policy)


def random_images(count: int, size: int) -> np.ndarray:
    """uint8[n, H, W, 3]."""
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8)


def assert_near(found: Any, expected: Any, tolerance: float) -> None:
    """The greatest difference is at most `tolerance` of the largest magnitude, and the features are no constant."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape and np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def documented_code() -> list[str]:
    """The code in docs/weights.md that needs torch."""
    page = (Path(__file__).parents[2] / 'docs' / 'weights.md').read_text(encoding='utf-8')
    return re.findall(r'^```py\n(.*?)^```', page, re.DOTALL | re.MULTILINE)
