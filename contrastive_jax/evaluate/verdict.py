"""Whether a training went well, in plain sentences. docs/health.md has the rule behind each of them."""

from collections.abc import Mapping

LEAST_STD = 0.1  # spread of the features below which they are nearly the same for all images
LEAST_RANK = 2.0  # dimensions in use
UNTRAINED = 'untrained encoder'
MARGIN = 0.01  # of an accuracy: a smaller difference says nothing


def first_weights(init: str) -> str:
    """What a run starts with, in words: what its baselines were measured on.

    Args:
      init: the field `init` of its config.
    """
    return 'given weights' if init else UNTRAINED


def few(metric: str) -> str:
    """The name of an accuracy on the images of the baselines alone: 'eval/knn_top1' -> 'eval/knn_few_top1'."""
    return metric.removesuffix('_top1') + '_few_top1'


def comparable(last: Mapping[str, float], metric: str) -> float | None:
    """The last accuracy on the images on which the baselines were measured; None if there is none.

    Args:
      last: the last value of each metric. Where the data has more images than the baselines use, `few(metric)` is the
        accuracy on theirs, and `metric` that on all.
      metric: such as 'eval/knn_top1'.
    """
    return last.get(few(metric), last.get(metric))


def verdict(last: Mapping[str, float], first: str = UNTRAINED) -> list[str]:
    """Sentences about a run.

    Args:
      last: the last value of each metric; 'baseline/X' is 'eval/X' of the encoder at step 0, and
        'baseline/pixels_knn_top1' the accuracy of kNN on raw pixels. `comparable` takes the accuracy on their images.
      first: what the encoder had at step 0, see `first_weights`.

    Returns:
      Collapse first, then the comparisons with raw pixels and with the encoder at step 0, as far as they were measured.
    """
    found = []
    if last.get('eval/feature_std', 1.0) < LEAST_STD or last.get('eval/effective_rank', LEAST_RANK) < LEAST_RANK:
        found.append(
            'collapsed: the features of all images are nearly the same -> lower optimizer.learning_rate, use a larger '
            'batch, or check the augmentation in augmentation.png'
        )
    elif 'eval/effective_rank' in last:
        found.append('not collapsed: the features of different images differ')
    ours = comparable(last, 'eval/knn_top1')
    pixels, before = last.get('baseline/pixels_knn_top1'), last.get('baseline/knn_top1')
    if ours is not None and pixels is not None:
        values = f'kNN {ours:.1%}, raw pixels {pixels:.1%}'
        if ours > pixels + MARGIN:
            found.append(f'better than raw pixels ({values})')
        else:
            word = 'worse than' if ours < pixels - MARGIN else 'about as good as'
            found.append(
                f'{word} raw pixels ({values}) -> train longer (epochs), use milder crops (augment.crop_scale) or more '
                'images'
            )
    if ours is not None and before is not None and ours < before + MARGIN:
        found.append(f'no better than the {first} ({before:.1%}) -> check the augmentation and the learning rate')
    return found
