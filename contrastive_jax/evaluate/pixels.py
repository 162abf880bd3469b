"""kNN on raw pixels: what an encoder has to beat before its training was worth anything."""

import numpy as np

from contrastive_jax.augment.policy import Policy
from contrastive_jax.data.loader import eval_batches
from contrastive_jax.data.pixels import WHITE
from contrastive_jax.data.sources import Source
from contrastive_jax.evaluate.knn import knn_accuracy

MOST_PIXELS = 32  # height and width of the images that are compared, at most
BATCH = 256


def pixel_accuracy(
    train: Source,
    train_ids: np.ndarray,
    test: Source,
    test_ids: np.ndarray,
    *,
    policy: Policy,
    image_size: int,
    k: int,
    temperature: float,
) -> float:
    """Top-1 accuracy of the weighted kNN on pixels by cosine similarity, on the images of an evaluation.

    Args:
      train, test: training and held-out images, with labels.
      train_ids, test_ids: int[n], int[m], their positions.
      policy: gives the resizing.
      image_size: height and width of the center crop in pixels; larger ones become `MOST_PIXELS`.
      k, temperature: as in `knn_accuracy`; k is at most the number of images.
    """
    x, y = _pixels(train, train_ids, policy, min(image_size, MOST_PIXELS))
    x_test, y_test = _pixels(test, test_ids, policy, min(image_size, MOST_PIXELS))
    classes = 1 + max(int(y.max()), int(y_test.max()))
    found = knn_accuracy(x, y, x_test, y_test, classes, k=min(k, len(x)), temperature=temperature)
    return found['top1']


def _pixels(source: Source, ids: np.ndarray, policy: Policy, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels float32[n, D] in [0, 1] and labels int[n] of the images that can be read and have a label."""
    batches = eval_batches(
        source, indices=ids, image_size=size, batch_size=BATCH, interpolation=policy.interpolation, style=policy.style
    )
    parts = [
        (
            batch['image'][rows].reshape(rows.sum(), -1).astype(np.float32) / WHITE[batch['image'].dtype],
            batch['label'][rows],
        )
        for batch in batches
        if (rows := batch['index'] >= 0).any()
    ]
    x, y = (np.concatenate(part) for part in zip(*parts, strict=True))
    return x[y >= 0], y[y >= 0]
