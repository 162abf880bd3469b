"""Writes an encoder for ONNX, by jax2onnx: pixels to features, and checked against ours before it is kept.

The file takes `images`, float32 [B, 3, H, W], RGB in [0, 1], as torchvision's ToTensor makes them, for any B, and gives
`features`, float32 [B, D]. The normalisation of the encoder's pixels is in the file, so that nobody can forget it.
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
from contrastive_jax.pretrained import weights
from contrastive_jax.pretrained.weights import Weights

INSTALL = "pip install -e '.[onnx]'"
MAX_BYTES = 2**31 - 2**20  # of a protocol buffer, less what is not numbers
IMAGES = 3  # that are compared
TOLERANCE = 1e-4  # relative to the greatest feature


def check_installed() -> None:
    """Tells before anything is read.

    Raises:
      UserError: jax2onnx is not installed.
    """
    if importlib.util.find_spec('jax2onnx') is None:
        raise UserError(f'OUT is for ONNX, which needs jax2onnx -> {INSTALL}, or choose another OUT')


def write(path: Path, made: Weights, say: Callable[[str], None]) -> None:
    """Writes the file.

    Args:
      path: where; its suffix does not matter.
      made: the encoder.
      say: is told what whoever uses it must know.

    Raises:
      UserError: it is too large, jax2onnx does not know a part of it, or its features are others than ours.
    """
    import jax2onnx
    import onnx

    if (size := 4 * sum(x.size for x in made.flat.values())) > MAX_BYTES:
        raise UserError(f'{made.config["name"]} has {size:,} bytes, more than the 2 GiB of a file for ONNX')

    def features(images: jax.Array) -> jax.Array:
        x = made.policy.normalize(images.transpose(0, 2, 3, 1) * 255)
        h: jax.Array = made.encoder.apply(made.variables, x, train=False)  # type: ignore[assignment]
        return h

    logging.getLogger('onnx_ir').setLevel(logging.ERROR)  # it warns of types that nobody wants to know
    shape = (3, made.image_size, made.image_size)
    try:
        model = jax2onnx.to_onnx(features, [('B', *shape)], input_names=['images'], output_names=['features'])
    except Exception as error:  # whatever it does not know
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'jax2onnx cannot write {made.config["name"]}: {type(error).__name__}: {reason}') from error
    sees = weights.normalisation(made.policy)
    about = {
        'images': f'float32 [B, {", ".join(map(str, shape))}], RGB in [0, 1]; normalised inside, to {sees}',
        'features': 'float32 [B, D]',
        'encoder': json.dumps(made.config),
        'source': made.source,
    }
    onnx.helper.set_model_props(model, about)
    model.producer_name, model.doc_string = 'contrastive_jax', '; '.join(f'{name}: {about[name]}' for name in about)
    onnx.save(model, str(path))
    difference = _compare(path, features, shape)
    say(f'note: images: {about["images"]}')
    say(f"note: onnxruntime's features of {IMAGES} images differ from ours by {difference:.1e} of the greatest")


def _compare(path: Path, features: Callable[[jax.Array], jax.Array], shape: tuple[int, ...]) -> float:
    """The greatest difference of onnxruntime's features from ours, in units of the greatest.

    Raises:
      UserError: it is too large.
    """
    import onnxruntime

    images = np.random.default_rng(0).uniform(size=(IMAGES, *shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    (theirs,) = session.run(['features'], {'images': images})
    with jax.default_matmul_precision('highest'):
        ours = np.asarray(jax.jit(features)(jnp.asarray(images)))
    difference = float(np.abs(theirs - ours).max() / np.abs(ours).max())
    if not difference < TOLERANCE:
        raise UserError(f"onnxruntime's features differ from ours by {difference:.1e}: nothing is written")
    return difference
