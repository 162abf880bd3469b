"""DeepCluster-v2: spherical k-means on remembered embeddings, and the prediction of its clusters.

    assign   a_i = argmax_k z_i . c_k
    average  c_k = normalise( sum_{i: a_i = k} z_i )
    L = -log softmax(z C / T)[a_i]   for every crop of image i

Official source: facebookresearch/swav, main_deepclusterv2.py; described in arXiv 2006.09882, appendix.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.numerics import normalize

# Rows whose similarities with all centroids are held at a time: 4096 x 3000 floats are 50 MB.
BLOCK = 4096


def spherical_kmeans(
    z: Array, centroids: Array, *, iterations: int = 10, mask: Array | None = None, axis_name: str | None = None
) -> tuple[Array, Array]:
    """k-means by cosine similarity, on vectors that lie on all devices.

    Rows stay where they are; the sums over the rows of each cluster travel, K x D numbers an iteration. A cluster that
    is empty keeps its centroid.

    Args:
      z: [N, D] unit vectors. Under an axis every device gives its own rows.
      centroids: [K, D] to start from, unit vectors, the same on all devices.
      iterations: of assigning and averaging; a last assignment follows.
      mask: bool[N], False for rows that take no part; None: all do.
      axis_name: the mapped device axis; None when all rows are here.

    Returns:
      Centroids [K, D], unit vectors, the same on all devices; and int32[N], the cluster of each row, -1 for rows that
      take no part. No gradient flows through either.
    """
    z, centroids = lax.stop_gradient((z, centroids))
    mask = jnp.ones(z.shape[0], bool) if mask is None else mask
    block = min(BLOCK, z.shape[0])
    short = -z.shape[0] % block
    blocks = (
        jnp.pad(z, ((0, short), (0, 0))).reshape(-1, block, z.shape[1]),  # [blocks, block, D]
        jnp.pad(mask, (0, short)).reshape(-1, block),
    )

    def assign(centroids: Array, z: Array, mask: Array) -> Array:
        similarity = jnp.matmul(z, centroids.T, precision=lax.Precision.HIGHEST)  # [block, K]
        return jnp.where(mask, jnp.argmax(similarity, axis=1), -1).astype(jnp.int32)

    def improve(_: Array, centroids: Array) -> Array:
        def add(sums: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            z, mask = part
            # A matrix product rather than a scatter: it adds in one order, every time.
            member = jax.nn.one_hot(assign(centroids, z, mask), centroids.shape[0], dtype=z.dtype)  # [block, K]
            total = jnp.matmul(member.T, z, precision=lax.Precision.HIGHEST)
            return (sums[0] + total, sums[1] + jnp.sum(member, axis=0)), None

        zeros = jnp.zeros_like(centroids), jnp.zeros_like(centroids[:, 0])
        total, count = collectives.psum(lax.scan(add, zeros, blocks)[0], axis_name)  # [K, D], [K]
        return jnp.where(count[:, None] > 0, normalize(total), centroids)

    centroids = lax.fori_loop(0, iterations, improve, centroids)
    assignments = lax.map(lambda part: assign(centroids, *part), blocks)
    return centroids, assignments.reshape(-1)[: z.shape[0]]


def cluster_prediction(
    scores: Array, assignments: Array, *, temperature: float = 0.1, axis_name: str | None = None
) -> Array:
    """Cross-entropy of each image's cluster, whichever of its crops is shown.

    Args:
      scores: [V, B, K] similarities of V crops with the centroids.
      assignments: int32[B], the cluster of each image; -1: none, and then it takes no part.
      temperature: > 0.
      axis_name: the mapped device axis; images without a cluster are counted over it.

    Returns:
      Scalar, at least float32, whose mean over the devices is the mean over all crops of images that have a cluster.
    """
    log_p = jax.nn.log_softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)) / temperature)
    has = assignments >= 0
    own = jnp.take_along_axis(log_p, jnp.maximum(assignments, 0)[None, :, None], axis=-1)[..., 0]  # [V, B]
    # As many on every device as the mean: devices are averaged, not images.
    count = collectives.pmean(jnp.sum(has.astype(log_p.dtype)), axis_name)
    return -jnp.sum(jnp.where(has, own, 0.0)) / jnp.maximum(count * scores.shape[0], 1.0)
