"""Writes an encoder as an ONNX file with jax2onnx, and compares its features with ours before the file is kept.

The input is `images`, float32 [B, C, H, W] in [0, 1], mostly RGB as torchvision's ToTensor makes it, for any B; the
output is `features`, float32 [B, D]. The input normalization is part of the file, so that it cannot be forgotten.
"""

import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.errors import UserError
from contrastive_jax.models.network import build_encoder
from contrastive_jax.pretrained import pixels
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.workdir.atomic import write_atomically

INSTALL = "pip install 'jax2onnx>=0.17'"
MAX_BYTES = 2**31 - 2**20  # the limit of a protocol buffer, less what is not weights
IMAGES = 3  # the number of images whose features are compared
TOLERANCE = 1e-4  # relative to the feature of the largest magnitude


def check_installed(_: Path) -> None:
    """Raises UserError if jax2onnx is not installed."""
    if importlib.util.find_spec('jax2onnx') is None:
        raise UserError(f'writing an ONNX file needs jax2onnx -> {INSTALL}, or choose another format')


def write(path: Path, encoder: Encoder) -> list[str]:
    """Writes the file.

    Args:
      path: the file.
      encoder: as it was loaded; the file computes in float32, even if the run computed in bfloat16.

    Returns:
      What a user of the file must know, line by line.

    Raises:
      UserError: the encoder is too large, jax2onnx does not support a part of it, or the features differ from ours.
      OSError: the file cannot be written.
    """
    import jax2onnx
    import onnx

    name = encoder.architecture['name']
    if (size := 4 * sum(x.size for x in encoder.flat.values())) > MAX_BYTES:
        raise UserError(f'{name} has {size:,} bytes, more than the 2 GiB that an ONNX file can hold')
    module = build_encoder(encoder.architecture)

    def features(images: jax.Array) -> jax.Array:
        x = encoder.policy.normalize(images.transpose(0, 2, 3, 1) * 255)
        h: jax.Array = module.apply(encoder.variables, x, train=False)  # type: ignore[assignment]
        return h

    logging.getLogger('onnx_ir').setLevel(logging.ERROR)  # without its warnings about types
    shape = (encoder.channels, encoder.image_size, encoder.image_size)
    try:
        model = jax2onnx.to_onnx(features, [('B', *shape)], input_names=['images'], output_names=['features'])
    except Exception as error:  # jax2onnx raises many kinds for what it does not support
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'jax2onnx cannot write {name}: {type(error).__name__}: {reason}') from error
    normalization = pixels.describe(encoder.policy)
    kind = f'float32 [B, {", ".join(map(str, shape))}], {"RGB " if encoder.channels == 3 else ""}in [0, 1]'
    about = {
        'images': f'{kind}; normalized in the file: {normalization}',
        'features': 'float32 [B, D]',
        'encoder': json.dumps(encoder.architecture),
        'source': encoder.source,
    }
    onnx.helper.set_model_props(model, about)
    model.producer_name = 'contrastive_jax'
    model.doc_string = '; '.join(f'{key}: {text}' for key, text in about.items())
    differences: list[float] = []

    def save(temporary: Path) -> None:
        onnx.save(model, str(temporary))
        differences.append(_compare(temporary, features, shape))

    write_atomically(path, save)
    return [
        f'images: {about["images"]}',
        f'the features of {IMAGES} images in onnxruntime differ from ours by {differences[0]:.1e} of the largest one',
    ]


def _compare(path: Path, features: Callable[[jax.Array], jax.Array], shape: tuple[int, ...]) -> float:
    """The largest difference between onnxruntime's features and ours, relative to the largest magnitude of ours.

    Raises:
      UserError: the difference is too large.
    """
    import onnxruntime

    images = np.random.default_rng(0).uniform(size=(IMAGES, *shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    (theirs,) = session.run(['features'], {'images': images})
    with jax.default_matmul_precision('highest'):
        ours = np.asarray(jax.jit(features)(jnp.asarray(images)))
    difference = float(np.abs(theirs - ours).max() / np.abs(ours).max())
    if not difference < TOLERANCE:
        raise UserError(f"onnxruntime's features differ from ours by {difference:.1e}: no file is written")
    return difference
