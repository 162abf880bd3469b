"""Whether a training went well, in plain sentences. docs/health.md has the rule behind each of them."""

from collections.abc import Mapping

LEAST_STD = 0.1  # spread of the features below which they are nearly the same for all images
LEAST_RANK = 2.0  # dimensions in use
MARGIN = 0.01  # of an accuracy: a smaller difference says nothing


def verdict(last: Mapping[str, float]) -> list[str]:
    """Sentences about a run.

    Args:
      last: the last value of each metric; 'baseline/X' is 'eval/X' of the untrained encoder, and
        'baseline/pixels_knn_top1' the accuracy of kNN on raw pixels. 'eval/knn_few_top1' is, where it exists, the
        accuracy on the images of the baselines alone.

    Returns:
      Collapse first, then the comparisons with raw pixels and with the untrained encoder, as far as they were measured.
    """
    found = []
    if last.get('eval/feature_std', 1.0) < LEAST_STD or last.get('eval/effective_rank', LEAST_RANK) < LEAST_RANK:
        found.append(
            'collapsed: the features of all images are nearly the same -> lower optimizer.learning_rate, use a larger '
            'batch, or check the augmentation in augmentation.png'
        )
    elif 'eval/effective_rank' in last:
        found.append('not collapsed: the features of different images differ')
    ours = last.get('eval/knn_few_top1', last.get('eval/knn_top1'))
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
        found.append(
            f'no better than the untrained encoder ({before:.1%}) -> check the augmentation and the learning rate'
        )
    return found
