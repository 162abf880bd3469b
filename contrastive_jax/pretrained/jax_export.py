"""Writes an encoder with jax.export: a file that jax alone runs, on CPUs, CUDA GPUs and TPUs, for any batch size.

The file holds StableHLO, with the input normalization, and the weights as its constants. Its input is `images`, uint8
[b, H, W, C]; its output are features, float32 [b, D]. jax reads files of an older version for six months after the
release that wrote them, and those of a newer version for three weeks; see
https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from contrastive_jax.errors import UserError
from contrastive_jax.models.network import build_encoder
from contrastive_jax.pretrained import pixels
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.workdir.atomic import write_atomically

PLATFORMS = ('cpu', 'cuda', 'tpu')
MAX_BYTES = 2**31 - 2**20  # a flatbuffer, which the file is, has 32-bit offsets; less what is not weights


def write(path: Path, encoder: Encoder) -> list[str]:
    """Writes the file.

    Args:
      path: the file.
      encoder: as it was loaded; the file computes in float32, even if the run computed in bfloat16.

    Returns:
      What a user of the file must know, line by line.

    Raises:
      UserError: the encoder is too large, or has an operation that jax.export cannot write.
      OSError: the file cannot be written.
    """
    name = encoder.architecture['name']
    if (size := 4 * sum(x.size for x in encoder.flat.values())) > MAX_BYTES:
        raise UserError(f'{name} has {size:,} bytes, more than the 2 GiB that a file of jax.export can hold')
    module = build_encoder(encoder.architecture)

    def features(images: jax.Array) -> jax.Array:
        h: jax.Array = module.apply(encoder.variables, encoder.policy.normalize(images), train=False)  # type: ignore[assignment]
        return h.astype(jnp.float32)

    (count,) = export.symbolic_shape('b')
    shape = (encoder.image_size, encoder.image_size, encoder.channels)
    images = jax.ShapeDtypeStruct((count, *shape), np.uint8)
    try:
        exported = export.export(jax.jit(features), platforms=PLATFORMS)(images)
        content = exported.serialize()
    except Exception as error:  # an encoder of the user's own may contain anything
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'jax.export cannot write {name}: {type(error).__name__}: {reason}') from error
    write_atomically(path, bytes(content))
    return [
        f'images: uint8 [b, {", ".join(map(str, shape))}], any b, no other size; normalized in the file: '
        f'{pixels.describe(encoder.policy)}',
        f'written by jax {jax.__version__} for {", ".join(PLATFORMS)}; jax of up to six months later reads it',
    ]
