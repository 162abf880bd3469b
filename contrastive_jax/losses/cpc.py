"""InfoNCE over predicted latents: Contrastive Predictive Coding v1 (arXiv 1807.03748, eq. 4) and v2 (1905.09272).

An image is a grid of patches. Each patch has a latent z and a context c, which depends on the latents of its own row
and of the rows above. From the context in row i a linear predictor predicts the latent k rows further down, and the
prediction is classified among many candidate latents:

    p_{i+k,j} = scale * c_{i,j} W_k
    L_k = -log( exp(p_{i+k,j} . z_{i+k,j}) / sum_l exp(p_{i+k,j} . z_l) )

Nothing is normalized and there is no temperature; v2 uses a scale of 0.1. There is no official code. The layout of the
grid follows the pseudo-code in the appendix of v2: the candidates are all latents of all images, including the correct
one.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.info_nce import ContrastiveOutput
from contrastive_jax.losses.numerics import at_least_float32

CANDIDATES = ('global', 'batch', 'image')
DIRECTIONS = ('down', 'up', 'right', 'left')


def cpc_grid(
    c: Array,
    z: Array,
    W: Array,
    *,
    offsets: Sequence[int],
    candidates: str = 'global',
    scale: float = 1.0,
    axis_name: str | None = None,
) -> Array:
    """CPC loss of each offset on a grid of patches.

    Latents are predicted from the rows above them; apply `rotate_to_direction` to c and z for the other directions.
    Gradients flow into c, z and W.

    Args:
      c: [B, R, C, Dc] contexts.
      z: [B, R, C, D] latents.
      W: [K, Dc, D], the linear predictor of each offset.
      offsets: K numbers of rows between a context and the latent that it predicts, each in [1, R - 1].
      candidates: 'global': all latents of all images; 'batch': the latents at the same position in all images;
        'image': all latents of the same image.
      scale: the factor of the predictions.
      axis_name: the mapped device axis; latents are gathered over it unless `candidates` is 'image'.

    Returns:
      [K] losses, each the mean over all predictions with that offset in the (local) images; at least float32. The
      papers sum them.

    Raises:
      ValueError: `candidates` is unknown, or an offset does not fit the grid.
    """
    outputs = cpc_terms(c, z, W, offsets=offsets, candidates=candidates, scale=scale, axis_name=axis_name)
    return jnp.stack([jnp.mean(output.loss) for output in outputs])


def cpc_sequence(
    c: Array, z: Array, W: Array, negatives: Array, *, scale: float = 1.0, axis_name: str | None = None
) -> Array:
    """CPC loss of each offset k = 1 ... K on sequences, with given negatives (v1: audio, text).

    Args:
      c: [B, T, Dc] contexts; c_t depends on z_0 ... z_t.
      z: [B, T, D] latents.
      W: [K, Dc, D], the linear predictor of each offset.
      negatives: int[K, B, T, N], the negatives of the prediction from c_t at offset k, as indices b * T + t of latents
        in the global batch. Entries with t >= T - k are not used.
      scale: the factor of the predictions.
      axis_name: the mapped device axis; latents are gathered over it.

    Returns:
      [K] losses, each the mean over all predictions with that offset in the (local) sequences; at least float32. v1
      averages them.
    """
    c, z, W = map(at_least_float32, (c, z, W))
    T = z.shape[1]
    latents = collectives.all_gather(z, axis_name).reshape(-1, z.shape[-1])  # [B T, D]
    losses = []
    for k in range(1, W.shape[0] + 1):
        p = scale * _product('btc,cd->btd', c[:, : T - k], W[k - 1])  # [b, T-k, D]
        l_pos = jnp.sum(p * z[:, k:], axis=-1)  # [b, T-k]
        l_neg = _product('btd,btnd->btn', p, latents[negatives[k - 1, :, : T - k]])
        logits = jnp.concatenate([l_pos[..., None], l_neg], axis=-1)
        losses.append(jnp.mean(jax.nn.logsumexp(logits, axis=-1) - l_pos))
    return jnp.stack(losses)


def cpc_terms(
    c: Array,
    z: Array,
    W: Array,
    *,
    offsets: Sequence[int],
    candidates: str = 'global',
    scale: float = 1.0,
    axis_name: str | None = None,
) -> list[ContrastiveOutput]:
    """The terms of `cpc_grid`: for each offset k a ContrastiveOutput with arrays [b, R-k, C]."""
    c, z, W = map(at_least_float32, (c, z, W))
    b, R, C, D = z.shape
    if candidates not in CANDIDATES:
        raise ValueError(f'candidates {candidates!r} is unknown -> choose from {", ".join(CANDIDATES)}')
    if not offsets or not all(1 <= k < R for k in offsets):
        raise ValueError(f'offsets {tuple(offsets)} do not fit a grid of {R} rows -> use numbers from 1 to {R - 1}')

    all_z = z if candidates == 'image' else collectives.all_gather(z, axis_name)  # [b or B, R, C, D]
    image, column = collectives.positions(b, axis_name)[:, None, None], jnp.arange(C)
    outputs = []
    for k, W_k in zip(offsets, W, strict=True):
        row = jnp.arange(k, R)[:, None]
        p = scale * _product('bijc,cd->bijd', c[:, : R - k], W_k)  # [b, R-k, C, D]
        match candidates:  # the logits of all candidates, and the index of the predicted latent among them
            case 'global':
                logits = _product('bijd,nd->bijn', p, all_z.reshape(-1, D))
                label = (image * R + row) * C + column
            case 'batch':
                logits = _product('bijd,nijd->bijn', p, all_z[:, k:])
                label = image
            case 'image':
                logits = _product('bijd,bnd->bijn', p, all_z.reshape(b, -1, D))
                label = row * C + column
        negatives = jnp.where(label[..., None] == jnp.arange(logits.shape[-1]), -jnp.inf, lax.stop_gradient(logits))
        positive = jnp.sum(p * z[:, k:], axis=-1)  # [b, R-k, C]
        outputs.append(ContrastiveOutput(positive, jax.nn.logsumexp(logits, axis=-1), jnp.max(negatives, axis=-1)))
    return outputs


def rotate_to_direction(grid: Array, direction: str) -> Array:
    """Flips or transposes a grid [B, R, C, ...] so that `direction`, one of DIRECTIONS, becomes 'down'."""
    match direction:
        case 'down':
            return grid
        case 'up':
            return grid[:, ::-1]
        case 'right':
            return jnp.swapaxes(grid, 1, 2)
        case 'left':
            return jnp.swapaxes(grid[:, :, ::-1], 1, 2)
    raise ValueError(f'direction {direction!r} is unknown -> choose from {", ".join(DIRECTIONS)}')


def _product(subscripts: str, a: Array, b: Array) -> Array:
    """An einsum in full precision: these logits are large sums, and their rounding errors change the softmax."""
    return jnp.einsum(subscripts, a, b, precision=lax.Precision.HIGHEST)
