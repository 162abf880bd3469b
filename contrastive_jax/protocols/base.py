"""The contract of an evaluation protocol, and the labeled data that it uses."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from contrastive_jax.data import sources
from contrastive_jax.data.labels import number_classes
from contrastive_jax.data.open import SOURCES, open_source
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.devices import Devices
from contrastive_jax.errors import DataError, UserError
from contrastive_jax.evaluate.knn import check_labels
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.rules import Rules
from contrastive_jax.training.interrupt import Interrupt


@dataclasses.dataclass(frozen=True)
class Data:
    """Labeled images. Images without a label are left out, unless training needs no labels.

    Attributes:
      train: training images.
      test: held-out images.
      train_ids: int64[n], the training images that are used.
      test_ids: int64[m], the held-out images that are used.
      classes: number of classes.
      unseen_classes: number of held-out images whose class has no training image.
    """

    train: sources.Source
    test: sources.Source
    train_ids: np.ndarray
    test_ids: np.ndarray
    classes: int
    unseen_classes: int


def load_data(config: ConfigDict, encoder: Encoder, labeled: bool = True) -> Data:
    """The training and the held-out split of an evaluation.

    Args:
      config: the config of the evaluation.
      encoder: the encoder that is evaluated; its run's data is used unless the config names other data.
      labeled: whether training images need a label; False: all of them are used.

    Raises:
      UserError: the data is missing, or it has no labels, or one class only.
    """
    d = config.data if config.data.source else encoder.config.data
    if not d.source:
        raise UserError(
            f'init {config.init} is a file of weights, which does not record its data -> set data.source to '
            f'{", ".join(SOURCES)}'
        )
    white = d.get('value_range', 0.0)
    keys = d.get('image_key', ''), d.get('label_key', '')  # are not in configs of older versions
    given = [
        open_source(d.source, d.name, d.path, split, encoder.image_size, white, encoder.channels, *keys)
        for split in (config.data.split, config.data.eval_split)
    ]
    sources.check_apart(given[0], given[1], config.data.split, config.data.eval_split)
    train, test = number_classes(*given)
    assert test is not None
    ids, classes = [], 0
    for source, what in ((train, 'training'), (test, 'held-out')):
        labels = np.full(len(source), -1) if source.labels is None else source.labels
        if not labeled and source is train:
            ids.append(np.arange(len(train)))
            continue
        if (labels < 0).all():
            raise DataError(f'the {what} images of {source.name} have no labels -> evaluate on data that has them')
        ids.append(np.flatnonzero(labels >= 0))
        classes = max(classes, int(labels.max()) + 1)
    assert test.labels is not None
    unseen_classes = 0
    if labeled:
        assert train.labels is not None
        taught, asked = np.unique(train.labels[ids[0]]), np.unique(test.labels[ids[1]])
        if len(taught) < 2:
            raise DataError(
                f'all training images of {train.name} are of one class -> use data with two classes or more'
            )
        if not np.isin(asked, taught).any():
            raise DataError(
                f'the held-out images of {train.name} have the classes {_names(test, asked)}, the training images '
                f'{_names(train, taught)}, and no class in common -> name the classes alike in both splits'
            )
        unseen_classes = int((~np.isin(test.labels[ids[1]], taught)).sum())
    check_labels(test.labels[ids[1]], len(ids[1]), classes, 'held-out')
    return Data(train, test, ids[0], ids[1], classes, unseen_classes)


def _names(source: Source, labels: np.ndarray) -> str:
    """'0 to 9', or 'cat, dog, ...'."""
    if source.classes is None:
        return f'{labels[0]} to {labels[-1]}'
    return ', '.join([*(source.classes[label] for label in labels[:3]), *(['...'] if len(labels) > 3 else [])])


# Makes the context in which a training is told whether it was asked to stop.
Asked = Callable[[], AbstractContextManager[Interrupt]]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How an encoder is evaluated. Each protocol is one file of protocols/; PROTOCOLS in run.py lists them by name.

    Attributes:
      sections: the class that declares each section of a config, by the path of the section; '' is the top level. One
        has the name of the protocol.
      rules: adds to the rules what is wrong with several fields together; each of them has the right type.
      values: fields whose default is not the declared one, by their paths.
      check: raises UserError where encoder or data do not fit the protocol, before anything is compiled; returns the
        number of steps that are trained, 0 where nothing is.
      run: evaluates; returns the numbers and writes them to the metrics of the workdir. Its last argument makes the
        object that tells a training whether it was asked to stop.
      labeled: whether training images need a label; False: all of them are used.
      resumes: whether a workdir goes on where it was stopped, and so belongs to one encoder and one data set; False:
        each call evaluates anew.
    """

    sections: Mapping[str, type]
    rules: Callable[[ConfigDict, Rules], None]
    check: Callable[[ConfigDict, Encoder, Data], int]
    run: Callable[[ConfigDict, Encoder, Data, Devices, Path, Asked], dict[str, float]]
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    labeled: bool = True
    resumes: bool = True
