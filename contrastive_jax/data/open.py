"""Opens a data set by the name of its kind, as the section `data` of a config gives it."""

import collections
import os
from pathlib import Path

import numpy as np

from contrastive_jax.data import array_records, digits, folder, huggingface, npz, objects, parquet, tfds, webdataset
from contrastive_jax.data.combined import combine
from contrastive_jax.data.pixels import WHITE
from contrastive_jax.data.slices import parse_slices
from contrastive_jax.data.sources import Source
from contrastive_jax.errors import UserError
from contrastive_jax.rules import did_you_mean

SOURCES = ('digits', 'npz', 'folder', 'tfds', 'huggingface', 'parquet', 'webdataset', 'array_record')
# What data.path is, for the kinds of data that cannot do without.
PATHS = {
    'npz': 'the .npz file',
    'folder': 'the folder of images',
    'huggingface': 'the folder that save_to_disk wrote',
    'parquet': 'the Parquet files: a file, a folder or a pattern',
    'webdataset': 'the tar files: a file, a folder or a pattern',
    'array_record': 'the array_record files: a file, a folder or a pattern',
}
KEYED = {'huggingface': huggingface.load, 'parquet': parquet.load, 'webdataset': webdataset.load}


def open_source(
    source: str,
    name: str = '',
    path: str = '',
    split: str = 'train',
    image_size: int = 224,
    value_range: float = 0,
    channels: int = 0,
    image_key: str = '',
    label_key: str = '',
) -> Source:
    """Opens one split of a data set. It reads only what is on this machine and never downloads.

    Args:
      source: 'digits' (embedded), 'npz' (a file), 'folder' (image files), 'tfds' (prepared by TensorFlow Datasets),
        'huggingface' (saved by `datasets`), 'parquet', 'webdataset' (tar files) or 'array_record' (files of encoded
        images), or 'package.module:Class' for data of your own, see data/objects.py.
      name: for 'tfds' the data set, e.g. 'cifar10' or 'imagenet_resized/64x64'. Other data has the name of its file or
        folder.
      path: the file or folder, for files of records also a pattern, see data/files.py; for 'tfds' the data_dir, by
        default $TFDS_DATA_DIR or ~/tensorflow_datasets.
      split: 'train', 'test', or another split of the data, or 'all'. 'test' and 'validation' replace each other, and a
        labeled one is preferred. Slices of splits, and several of them, as TFDS writes them: 'train[:10%]',
        'train[100:500]', 'train[:90%]+validation'.
      image_size: height and width of the largest crop, in pixels; much larger JPEGs are decoded at a reduced size.
      value_range: the value that is white in images of more than 8 bits. 0: of gray encoded images, derived from a
        sample; 65535 for uint16 arrays; other arrays need it.
      channels: C, the number of channels that is wanted; 0: that of the data, and 3 for gray images.
      image_key, label_key: for 'huggingface' and 'parquet' the columns of images and labels; for 'webdataset' the
        ending of the images, and the ending of the labels or their key in `.json` files; '': found.

    Raises:
      UserError: an unknown source, data set or split.
      DataError: the data is missing or damaged, lacks the split, or has another number of channels.
    """
    for field, key in (('data.image_key', image_key), ('data.label_key', label_key)):
        if key and source not in KEYED:
            given = f'{field} {key!r} is not used by data.source {source!r}, only by {", ".join(KEYED)}'
            raise UserError(given, field=field, remedy='leave it out', value='')
    if source != 'tfds' and ('[' in split or ']' in split or '+' in split):
        parts = parse_slices(split, 'data.split')

        def open_split(of: str) -> Source:
            return open_source(source, name, path, of, image_size, value_range, channels, image_key, label_key)

        return combine(parts, open_split, split, 'data.split')
    if ':' in source:
        return objects.load(source, path, split, channels, value_range)
    if source not in SOURCES:
        raise UserError(
            f'data.source {source!r} is unknown{did_you_mean(source, SOURCES)} -> choose from {", ".join(SOURCES)}'
        )
    if source == 'digits':
        if name not in ('', 'digits'):
            raise UserError(
                f"data.source 'digits' has no data set {name!r} -> set data.name to 'digits', or data.source to one of "
                f'{", ".join(SOURCES[1:])}'
            )
        if path:
            raise UserError(
                f"data.path '{path}' is not used by data.source 'digits'",
                field='data.source',
                remedy='leave it out, or say what it holds, such as a folder of images',
                value='folder',
            )
        return digits.load(split, channels)
    if '://' in path:
        raise UserError(
            f"data.path '{path}' is not a local path -> mount the bucket (gcsfuse) and set data.path to the mounted "
            'folder'
        )
    if source == 'tfds':
        if channels not in (0, 3):
            raise UserError(
                f'TFDS data sets are read as RGB, and {channels} channels are wanted -> use another data.source'
            )
        return tfds.load(name, path, split, image_size)
    if not path:
        raise UserError(f"data.source '{source}' needs data.path -> set data.path to {PATHS[source]}")
    location = Path(os.path.abspath(os.path.expanduser(path)))  # absolute, so that messages show the whole path
    # A recipe's data.name, such as 'cifar10', is that of a TFDS data set: the user's own data has the name of its file.
    if source == 'npz':
        return npz.load(location, split, channels=channels, value_range=value_range)
    if source == 'folder':
        return folder.load(location, split, image_size, value_range=value_range, channels=channels)
    if channels not in (0, 1, 3):
        raise UserError(
            f'data.source {source!r} is read as RGB or gray, and {channels} channels are wanted -> use image files'
        )
    if source in KEYED:
        return KEYED[source](location, split, image_size, value_range, channels, image_key, label_key)
    return array_records.load(location, split, image_size, value_range, channels)


def summary(train: Source, held_out: Source | None) -> str:
    """One line that says how the data was understood: images, classes, splits, and what was skipped.

    Args:
      train: training images.
      held_out: images for evaluation, or None.
    """
    skipped = collections.Counter(train.skipped)
    parts = [f'train: {_images(train)}']
    if held_out is None:
        parts.append('held out: none')
    else:
        unseen = _unseen(train, held_out)
        held = _images(held_out, short=train.num_classes == held_out.num_classes and not unseen)
        parts.append(f'held out: {held}{unseen}')
        if held_out.root != train.root:
            skipped.update(held_out.skipped)
    if skipped:
        parts.append('skipped: ' + ', '.join(f'{count:,} {reason}' for reason, count in sorted(skipped.items())))
    if train.channels != 3 or train.dtype != np.uint8:
        parts.append(f'{train.channels} channel{"" if train.channels == 1 else "s"} of {8 * train.dtype.itemsize} bits')
    if train.white and train.channels in (1, 3):
        parts.append(f'gray values 0 to {train.white:g} become 0 to {WHITE[train.dtype]}')
    return ', '.join([*parts, *train.remarks]) + folder.remedy(skipped)


def _unseen(train: Source, held_out: Source) -> str:
    """', 7 of them in classes without a training image', or ''. It does not read all records of TFDS for that."""
    stored = all(source.array is not None or source.root is not None for source in (train, held_out))
    if not stored or train.labels is None or held_out.labels is None:
        return ''
    unseen = int((~np.isin(held_out.labels[held_out.labels >= 0], train.labels)).sum())
    return f', {unseen:,} of them in classes without a training image' if unseen else ''


def _images(source: Source, short: bool = False) -> str:
    """'1,234 images in 10 classes (train/)', or '321 (valid/)'."""
    place = f' ({source.place})' if source.place else ''
    if source.num_classes and source.labels is not None and (unknown := int((source.labels < 0).sum())):
        place = f', {unknown:,} of them without a label{place}'
    if short:
        return f'{len(source):,}{place}'
    classes = f'in {source.num_classes:,} classes' if source.num_classes else 'without labels'
    return f'{len(source):,} images {classes}{place}'
