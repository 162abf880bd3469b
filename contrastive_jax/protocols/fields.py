"""The fields of every evaluation's config: its top level and its section `data`.

Each protocol declares its own sections beside its code, and adds fields to these two where it trains.
"""

import dataclasses

from contrastive_jax.config.fields import MAX_BATCH
from contrastive_jax.data.open import SOURCES
from contrastive_jax.pretrained.encoder import WEIGHTS
from contrastive_jax.rules import field


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The top level of a config."""

    protocol: str = field('', "How the encoder is evaluated: 'knn', 'linear', 'finetune' or 'distill'.")
    init: str = field('', 'The workdir of a run, or a file of weights, whose encoder is evaluated.')
    weights: str = field(
        'online',
        "'online', the trained network; 'target', its moving average, such as DINO's teacher.",
        choices=WEIGHTS,
    )
    step: str = field('', "The checkpoint of the run: its step, or 'best'; empty: the newest.")
    parallel: str = field('jit', 'How all devices are used: jit(shard_map), or pmap.', choices=('jit', 'pmap'))
    batch_size: int = field(512, 'Global batch size, over all devices of all hosts.', least=1, most=MAX_BATCH)


@dataclasses.dataclass(frozen=True)
class Data:
    """The section `data`."""

    source: str = field(
        '',
        "Kind of the data: 'digits', 'npz', 'folder', 'tfds', 'huggingface', 'parquet', 'webdataset', 'array_record', "
        "or a class of your own, 'package.module:Class' (data/objects.py); empty: the data of the run.",
        choices=SOURCES,
        named=True,
        empty=True,
    )
    name: str = field('', 'Name of the TFDS data set.')
    path: str = field('', "The file or folder of the data, or a pattern of files; TFDS's data_dir.")
    image_key: str = field('', 'Column or ending of the images, as in a run; empty: found.')
    label_key: str = field('', 'Column, ending or key of the labels, as in a run; empty: found.')
    split: str = field('train', 'The split whose images the classifier is made from.')
    eval_split: str = field(
        'test', "The split that is classified; 'test' and 'validation' replace each other, a labeled one first."
    )
    value_range: float = field(
        0.0,
        'The value that is white in images of more than 8 bits, as in a run. It is for data that is given here: the '
        'data of the run keeps its own.',
        least=0,
    )
    image_size: int = field(0, 'Height and width of the images, in pixels; 0: as in the run.', least=0)
