"""InfoNCE over predicted latents: Contrastive Predictive Coding v1 (arXiv 1807.03748, eq. 4) and v2 (1905.09272).

An image is a grid of patches with a latent z and a context c each; c has seen its own row and those above. From c at
row i, latents further down are predicted linearly, and a prediction must find its own latent among many:

    p_{i+k,j} = scale * c_{i,j} W_k
    L_k = -log( exp(p_{i+k,j} . z_{i+k,j}) / sum_l exp(p_{i+k,j} . z_l) )

There is neither a normalisation nor a temperature; v2 has a scale of 0.1. No official code exists. The layout of the
grid is that of the pseudo-code in v2's appendix: all latents of all images are candidates, the own one among them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.info_nce import ContrastiveOutput

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
    """The loss of each offset on a grid of patches, predicted downwards; see `rotate_to_direction` for the others.

    Gradients flow into c, z and W.

    Args:
      c: [B, R, C, Dc] contexts.
      z: [B, R, C, D] latents.
      W: [K, Dc, D], the linear predictor of each offset.
      offsets: K of them, how many rows below the own one a latent lies; at least 1, less than R.
      candidates: 'global': all latents of all images; 'batch': those of the same place in all images; 'image': all of
        the same image.
      scale: of the predictions.
      axis_name: the mapped device axis; latents are gathered over it, but for 'image'.

    Returns:
      [K], the mean over all predictions with that offset (of the local images), at least float32. The papers sum them.
    """
    found = cpc_terms(c, z, W, offsets=offsets, candidates=candidates, scale=scale, axis_name=axis_name)
    return jnp.stack([jnp.mean(lookup.loss) for lookup in found])


def cpc_sequence(
    c: Array, z: Array, W: Array, negatives: Array, *, scale: float = 1.0, axis_name: str | None = None
) -> Array:
    """The loss of each offset k = 1 ... K on sequences, with negatives that were drawn beforehand (v1: audio, text).

    Args:
      c: [B, T, Dc] contexts; c_t has seen z_0 ... z_t.
      z: [B, T, D] latents.
      W: [K, Dc, D], the linear predictor of each offset.
      negatives: int[K, B, T, N], which latents z_{t+k} competes with: b * T + t in the global batch. Entries with
        t >= T - k are not used.
      scale: of the predictions.
      axis_name: the mapped device axis; latents are gathered over it.

    Returns:
      [K], the mean over all predictions with that offset (of the local sequences), at least float32. v1 averages them.
    """
    c, z, W = _at_least_float32(c, z, W)
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
    """`cpc_grid` prediction by prediction: for each offset k a ContrastiveOutput of [b, R-k, C]."""
    c, z, W = _at_least_float32(c, z, W)
    b, R, C, D = z.shape
    if candidates not in CANDIDATES:
        raise ValueError(f'candidates {candidates!r} is unknown; use one of {", ".join(CANDIDATES)}')
    if not offsets or not all(1 <= k < R for k in offsets):
        raise ValueError(f'offsets {tuple(offsets)} do not fit a grid of {R} rows; use numbers from 1 to {R - 1}')

    everywhere = z if candidates == 'image' else collectives.all_gather(z, axis_name)
    image, column = collectives.positions(b, axis_name)[:, None, None], jnp.arange(C)
    found = []
    for k, W_k in zip(offsets, W, strict=True):
        row = jnp.arange(k, R)[:, None]
        p = scale * _product('bijc,cd->bijd', c[:, : R - k], W_k)  # [b, R-k, C, D]
        match candidates:  # the logits of all candidates, and which of them is the own latent
            case 'global':
                logits = _product('bijd,nd->bijn', p, everywhere.reshape(-1, D))
                own = (image * R + row) * C + column
            case 'batch':
                logits = _product('bijd,nijd->bijn', p, everywhere[:, k:])
                own = image
            case 'image':
                logits = _product('bijd,bnd->bijn', p, everywhere.reshape(b, -1, D))
                own = row * C + column
        others = jnp.where(own[..., None] == jnp.arange(logits.shape[-1]), -jnp.inf, lax.stop_gradient(logits))
        positive = jnp.sum(p * z[:, k:], axis=-1)  # [b, R-k, C]
        found.append(ContrastiveOutput(positive, jax.nn.logsumexp(logits, axis=-1), jnp.max(others, axis=-1)))
    return found


def rotate_to_direction(grid: Array, direction: str) -> Array:
    """A grid [B, R, C, ...] seen such that what lies in `direction`, one of DIRECTIONS, lies further down."""
    match direction:
        case 'down':
            return grid
        case 'up':
            return grid[:, ::-1]
        case 'right':
            return jnp.swapaxes(grid, 1, 2)
        case 'left':
            return jnp.swapaxes(grid[:, :, ::-1], 1, 2)
    raise ValueError(f'direction {direction!r} is unknown; use one of {", ".join(DIRECTIONS)}')


def _at_least_float32(*arrays: Array) -> tuple[Array, ...]:
    return tuple(x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in arrays)


def _product(subscripts: str, a: Array, b: Array) -> Array:
    """In full precision: sums of products as large as these logits decide the softmax."""
    return jnp.einsum(subscripts, a, b, precision=lax.Precision.HIGHEST)
