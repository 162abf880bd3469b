"""DeepCluster-v2: spherical k-means on stored embeddings, and the prediction of the cluster assignments.

    assign   a_i = argmax_k z_i . c_k
    average  c_k = normalize( sum_{i: a_i = k} z_i )
    L = -log softmax(z C / T)[a_i]   for every crop of image i

Official source: facebookresearch/swav, main_deepclusterv2.py; described in arXiv 2006.09882, appendix.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.numerics import at_least_float32, normalize

# Number of rows whose similarities with all centroids are in memory at a time: 4096 x 3000 floats are 50 MB.
BLOCK = 4096


def spherical_kmeans(
    z: Array, centroids: Array, *, iterations: int = 10, mask: Array | None = None, axis_name: str | None = None
) -> tuple[Array, Array]:
    """k-means by cosine similarity, on vectors that are sharded over the devices.

    Rows are not sent between devices; each iteration adds up the cluster sums, K x D numbers, over the devices. An
    empty cluster keeps its centroid.

    Args:
      z: [N, D] unit vectors. Under an axis each device passes its own rows.
      centroids: [K, D] initial centroids, unit vectors, the same on all devices.
      iterations: number of times that rows are assigned and centroids averaged; a last assignment follows.
      mask: bool[N], False for rows that are ignored; None: no row is ignored.
      axis_name: the mapped device axis; None when all rows are on this device.

    Returns:
      Centroids [K, D], unit vectors, the same on all devices; and int32[N], the cluster of each row, -1 for ignored
      rows. No gradient flows through either.
    """
    z, centroids = lax.stop_gradient((z, centroids))
    mask = jnp.ones(z.shape[0], bool) if mask is None else mask
    block = min(BLOCK, z.shape[0])
    padding = -z.shape[0] % block
    blocks = (
        jnp.pad(z, ((0, padding), (0, 0))).reshape(-1, block, z.shape[1]),  # [blocks, block, D]
        jnp.pad(mask, (0, padding)).reshape(-1, block),
    )

    def assign(centroids: Array, z: Array, mask: Array) -> Array:
        similarity = jnp.matmul(z, centroids.T, precision=lax.Precision.HIGHEST)  # [block, K]
        return jnp.where(mask, jnp.argmax(similarity, axis=1), -1).astype(jnp.int32)

    def update(_: Array, centroids: Array) -> Array:
        def add(sums: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            z, mask = block
            # A matrix product instead of a scatter-add, because its order of summation is deterministic.
            member = jax.nn.one_hot(assign(centroids, z, mask), centroids.shape[0], dtype=z.dtype)  # [block, K]
            total = jnp.matmul(member.T, z, precision=lax.Precision.HIGHEST)
            return (sums[0] + total, sums[1] + jnp.sum(member, axis=0)), None

        zeros = jnp.zeros_like(centroids), jnp.zeros_like(centroids[:, 0])
        total, count = collectives.psum(lax.scan(add, zeros, blocks)[0], axis_name)  # [K, D], [K]
        return jnp.where(count[:, None] > 0, normalize(total), centroids)

    centroids = lax.fori_loop(0, iterations, update, centroids)
    assignments = lax.map(lambda block: assign(centroids, *block), blocks)
    return centroids, assignments.reshape(-1)[: z.shape[0]]


def cluster_prediction(
    scores: Array, assignments: Array, *, temperature: float = 0.1, axis_name: str | None = None
) -> Array:
    """Cross-entropy between the cluster of each image and the predictions from its crops.

    Args:
      scores: [V, B, K] similarities of V crops with the centroids.
      assignments: int32[B], the cluster of each image; images with -1 are ignored.
      temperature: > 0.
      axis_name: the mapped device axis; the images with a cluster are counted over it.

    Returns:
      Scalar, at least float32. Its mean over the devices is the mean over all crops of the images with a cluster.
    """
    log_p = jax.nn.log_softmax(at_least_float32(scores) / temperature)
    valid = assignments >= 0
    log_p = jnp.take_along_axis(log_p, jnp.maximum(assignments, 0)[None, :, None], axis=-1)[..., 0]  # [V, B]
    # Every device divides by the mean count, so that the mean over the devices is the mean over the images.
    count = collectives.pmean(jnp.sum(valid.astype(log_p.dtype)), axis_name)
    return -jnp.sum(jnp.where(valid, log_p, 0.0)) / jnp.maximum(count * scores.shape[0], 1.0)
