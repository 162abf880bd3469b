"""DeepCluster: k-means on stored embeddings, and the prediction of the cluster assignments.

DeepCluster (arXiv 1807.05520) whitens the embeddings by their principal components and normalizes them before k-means
by squared distances; its prediction is `classification.cross_entropy`. DeepCluster-v2 is:

    assign   a_i = argmax_k z_i . c_k
    average  c_k = normalize( sum_{i: a_i = k} z_i )
    L = -log softmax(z C / T)[a_i]   for every crop of image i

Official source: facebookresearch/swav, main_deepclusterv2.py; described in arXiv 2006.09882, appendix.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from contrastive_jax.distributed import collectives
from contrastive_jax.losses.numerics import at_least_float32, normalize

# Number of rows whose similarities with all centroids are in memory at a time: 4096 x 3000 floats are 50 MB.
BLOCK = 4096

# The relative change of a centroid that is given to an empty cluster; that of faiss.
PERTURBATION = 1 / 1024


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

    def average(_: Array | int, centroids: Array, total: Array, count: Array) -> Array:
        return jnp.where(count[:, None] > 0, normalize(total), centroids)

    return _lloyd(z, centroids, lambda _: 0.0, average, iterations, mask, axis_name)


def kmeans(
    z: Array,
    centroids: Array,
    *,
    key: Array,
    iterations: int = 20,
    mask: Array | None = None,
    axis_name: str | None = None,
) -> tuple[Array, Array]:
    """k-means by squared distance, on vectors that are sharded over the devices (DeepCluster).

    An empty cluster gets the centroid of a random other one with a small perturbation, so that the two divide it. As in
    faiss, clusters are drawn with probabilities proportional to their size minus one.

    Args:
      z: [N, D]. Under an axis each device passes its own rows.
      centroids: [K, D] initial centroids, the same on all devices.
      key: a typed key, the same on all devices.
      iterations: number of times that rows are assigned and centroids averaged; a last assignment follows.
      mask: bool[N], False for rows that are ignored; None: no row is ignored.
      axis_name: the mapped device axis; None when all rows are on this device.

    Returns:
      Centroids [K, D], the same on all devices; and int32[N], the cluster of each row, -1 for ignored rows. No gradient
      flows through either.
    """

    def average(i: Array | int, centroids: Array, total: Array, count: Array) -> Array:
        new = jnp.where(count[:, None] > 0, total / jnp.maximum(count[:, None], 1), centroids)
        key_donor, key_sign = jax.random.split(jax.random.fold_in(key, i))
        donor = jax.random.categorical(key_donor, jnp.log(jnp.maximum(count - 1, 1e-9)), shape=count.shape)  # [K]
        sign = jax.random.rademacher(key_sign, new.shape, dtype=new.dtype)
        return jnp.where(count[:, None] > 0, new, new[donor] * (1 + PERTURBATION * sign))

    half_square = lambda centroids: jnp.sum(centroids**2, axis=1) / 2  # noqa: E731
    return _lloyd(z, centroids, half_square, average, iterations, mask, axis_name)


def _lloyd(
    z: Array,
    centroids: Array,
    offset: Callable[[Array], Array | float],
    average: Callable[[Array | int, Array, Array, Array], Array],
    iterations: int,
    mask: Array | None,
    axis_name: str | None,
) -> tuple[Array, Array]:
    """Lloyd's algorithm, in blocks of rows.

    Args:
      z, centroids, iterations, mask, axis_name: as in `kmeans`.
      offset: maps centroids to numbers [K] or [] that are subtracted from the products z . c_k before the largest one
        is taken.
      average: maps (iteration, centroids, sums of the rows of each cluster [K, D], numbers of rows [K]) to centroids.
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
        scores = jnp.matmul(z, centroids.T, precision=lax.Precision.HIGHEST) - offset(centroids)  # [block, K]
        return jnp.where(mask, jnp.argmax(scores, axis=1), -1).astype(jnp.int32)

    def update(i: Array | int, centroids: Array) -> Array:
        def add(sums: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            z, mask = block
            # A matrix product instead of a scatter-add, because its order of summation is deterministic.
            member = jax.nn.one_hot(assign(centroids, z, mask), centroids.shape[0], dtype=z.dtype)  # [block, K]
            total = jnp.matmul(member.T, z, precision=lax.Precision.HIGHEST)
            return (sums[0] + total, sums[1] + jnp.sum(member, axis=0)), None

        zeros = jnp.zeros_like(centroids), jnp.zeros_like(centroids[:, 0])
        total, count = collectives.psum(lax.scan(add, zeros, blocks)[0], axis_name)  # [K, D], [K]
        return average(i, centroids, total, count)

    centroids = lax.fori_loop(0, iterations, update, centroids)
    assignments = lax.map(lambda block: assign(centroids, *block), blocks)
    return centroids, assignments.reshape(-1)[: z.shape[0]]


def pca_whiten(z: Array, dim: int, *, mask: Array | None = None, axis_name: str | None = None) -> Array:
    """Principal components of vectors, each divided by its standard deviation (DeepCluster).

    Args:
      z: [N, D]. Under an axis each device passes its own rows.
      dim: number of components, at most D.
      mask: bool[N], False for rows that do not count for mean and covariance; None: all do.
      axis_name: the mapped device axis; None when all rows are on this device.

    Returns:
      [N, dim], this device's rows; the component of the largest variance first. No gradient flows through it.
    """
    z = at_least_float32(lax.stop_gradient(z))
    counted = jnp.ones((z.shape[0], 1), z.dtype) if mask is None else mask[:, None].astype(z.dtype)
    count, total = collectives.psum((jnp.sum(counted), jnp.sum(counted * z, axis=0)), axis_name)
    centered = z - total / count
    product = jnp.matmul((counted * centered).T, centered, precision=lax.Precision.HIGHEST)
    variance, axes = jnp.linalg.eigh(collectives.psum(product, axis_name) / count)  # ascending
    variance, axes = variance[::-1][:dim], axes[:, ::-1][:, :dim]
    smallest = jnp.finfo(z.dtype).eps * variance[0]  # below it there is only rounding
    scale = lax.rsqrt(jnp.maximum(variance, jnp.maximum(smallest, jnp.finfo(z.dtype).tiny)))
    return jnp.matmul(centered, axes, precision=lax.Precision.HIGHEST) * scale


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
