"""What a protocol is, and the labelled data that it looks at."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from contrastive_jax.data import sources
from contrastive_jax.distributed.devices import Devices
from contrastive_jax.errors import DataError, UserError
from contrastive_jax.evaluate.knn import check_labels
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.rules import Rules

MAX_CLASSES = 100_000  # ImageNet has 21,841 at most: what is beyond is no number of a class


@dataclasses.dataclass(frozen=True)
class Data:
    """Labelled images, of which those without a label are left out, unless training needs none.

    Attributes:
      train, test: sources.
      train_ids, test_ids: int64, the examples that take part.
      classes: their number.
      unseen_classes: held-out images of classes without a training image.
    """

    train: sources.Source
    test: sources.Source
    train_ids: np.ndarray
    test_ids: np.ndarray
    classes: int
    unseen_classes: int


def load_data(config: ConfigDict, encoder: Encoder, labelled: bool = True) -> Data:
    """The training and the held-out split that an evaluation looks at.

    Args:
      config: of the evaluation.
      encoder: of the run, whose data it is unless the config names some.
      labelled: whether training images need a label; otherwise all of them take part.

    Raises:
      UserError: the data is missing, or it has no labels, or one class only.
    """
    d = config.data if config.data.source else encoder.config.data
    if not d.source:
        raise UserError(
            f'init {config.init} is a file of weights, which says nothing of data -> name some: '
            f'--config.data.source={"|".join(sources.SOURCES)}'
        )
    train, test = (
        sources.load(d.source, d.name, d.path, split, encoder.image_size)
        for split in (config.data.split, config.data.eval_split)
    )
    ids, classes = [], 0
    for source, what in ((train, 'training'), (test, 'held-out')):
        labels = np.full(len(source), -1) if source.labels is None else source.labels
        if not labelled and source is train:
            ids.append(np.arange(len(train)))
            continue
        if (labels < 0).all():
            raise DataError(f'the {what} images of {source.name} have no labels -> evaluate on data that has them')
        ids.append(np.flatnonzero(labels >= 0))
        classes = max(classes, int(labels.max()) + 1)
    assert test.labels is not None
    if classes > MAX_CLASSES:
        raise DataError(f'the labels of {train.name} go up to {classes - 1} -> number the classes from 0')
    unseen_classes = 0
    if labelled:
        assert train.labels is not None
        taught, asked = np.unique(train.labels[ids[0]]), np.unique(test.labels[ids[1]])
        if len(taught) < 2:
            raise DataError(f'all training images of {train.name} are of one class -> there is nothing to tell apart')
        if not np.isin(asked, taught).any():
            raise DataError(
                f'the held-out images of {train.name} have labels {asked[0]} to {asked[-1]}, the training images '
                f'{taught[0]} to {taught[-1]}, and none in common -> number the classes alike in both splits'
            )
        unseen_classes = int((~np.isin(test.labels[ids[1]], taught)).sum())
    check_labels(test.labels[ids[1]], len(ids[1]), classes, 'held-out')
    return Data(train, test, ids[0], ids[1], classes, unseen_classes)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the encoder of a run is judged: one file of evaluate/ each, found by its name in `protocols.PROTOCOLS`.

    Attributes:
      fields: adds to a config the fields of its own, a section with its name among them.
      rules: finds what is wrong with them, on so many devices.
      check: raises UserError where the encoder or the data does not serve, before anything is compiled.
      run: returns the numbers, and leaves them in the metrics of the workdir.
      labelled: whether training images need a label; otherwise all of them take part.
    """

    fields: Callable[[ConfigDict], None]
    rules: Callable[[ConfigDict, int, Rules], None]
    check: Callable[[ConfigDict, Encoder, Data], None]
    run: Callable[[ConfigDict, Encoder, Data, Devices, Path], dict[str, float]]
    labelled: bool = True
