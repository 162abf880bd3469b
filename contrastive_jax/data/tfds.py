"""Data sets prepared by TensorFlow Datasets as `array_record`, read without TensorFlow and without network access.

The prepared data is found by listing folders, before tensorflow_datasets is imported, because that package may query a
cloud bucket about data that is missing. Only preparing a data set, or converting one from `tfrecord`, needs TensorFlow;
the errors print the commands.
"""

import copy
import functools
import hashlib
import importlib.util
import json
import os
import re
from concurrent import futures
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from contrastive_jax.data import images
from contrastive_jax.data.slices import parse_slices
from contrastive_jax.data.sources import ArraySource, DataSetupError, Source
from contrastive_jax.data.splits import resolve_split
from contrastive_jax.errors import DataError, UserError
from contrastive_jax.rules import did_you_mean

# Image data sets of the papers, to suggest one for a misspelled name; any other prepared data set works as well.
WELL_KNOWN = (
    'caltech101', 'cifar10', 'cifar100', 'dtd', 'fashion_mnist', 'food101', 'imagenet2012', 'imagenet2012_subset',
    'imagenet_resized', 'mnist', 'oxford_flowers102', 'oxford_iiit_pet', 'places365_small', 'stanford_dogs', 'stl10',
    'sun397', 'svhn_cropped',
)  # fmt: skip

# Images of one fixed size are decoded into memory up to this size, so that they can be kept on the device. CIFAR takes
# 0.15 GB.
IN_MEMORY_BYTES = 1 << 30

INSTALL = 'pip install tensorflow-datasets'
PREPARE = f'{INSTALL} tensorflow apache-beam mlcroissant'  # the scripts of tensorflow_datasets import these


class TfdsSource(Source):
    """The records of one split, read and decoded one by one.

    Args:
      records: a `tfds.data_source` that leaves images encoded: record i is {'image': bytes, 'label': int, ...}.
      name: the name in logs and messages.
      classes: the names of the classes, indexed by label, or None.
      labeled: whether the records have labels.
      image_size: height and width of the largest crop, in pixels; much larger JPEGs are decoded at a reduced size.
    """

    def __init__(
        self, records: Any, *, name: str, classes: tuple[str, ...] | None, labeled: bool, image_size: int = 224
    ):
        self.name = name
        self.classes = classes
        self._records = records
        self._labeled = labeled
        self._min_side = images.DRAFT_FACTOR * image_size

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """int32 [n], or None. The first access reads every record; for ImageNet this takes about a minute."""
        if not self._labeled:
            return None
        return np.array([int(record['label']) for record in map(self._records.__getitem__, range(len(self)))], np.int32)

    @property
    def num_classes(self) -> int:
        """The number of named classes: counting labels would read every record."""
        return len(self.classes or ()) if self._labeled else 0

    def __len__(self) -> int:
        return len(self._records)

    def image(self, i: int) -> np.ndarray:
        return self.example(i)[0]

    def stored_size(self, i: int) -> tuple[int, int]:
        return images.stored_size(self._record(i)['image'])

    def label(self, i: int) -> int:
        return int(self._record(i)['label']) if self._labeled else -1

    def example(self, i: int) -> tuple[np.ndarray, int]:
        record = self._record(i)
        image = images.decode(record['image'], min_side=self._min_side)
        return image, int(record['label']) if self._labeled else -1

    def for_image_size(self, image_size: int) -> 'TfdsSource':
        source = copy.copy(self)
        source._min_side = images.DRAFT_FACTOR * image_size
        return source

    def file_name(self, i: int) -> str:
        return f'{self.name}[{i}]'

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f'{self.name} {len(self)}'.encode()).hexdigest()[:16]

    def _record(self, i: int) -> Any:
        try:
            return self._records[i]
        except Exception as error:  # for a damaged shard, the readers raise exceptions of their own types
            raise images.ImageError(f'{type(error).__name__}: {error}') from error


def load(name: str, path: str = '', split: str = 'train', image_size: int = 224) -> Source:
    """Opens one split of a prepared data set.

    Args:
      name: '<name>' or '<name>/<config>'; with ':<version>' for another version than the newest.
      path: the data_dir; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
      split: a split of the data set, a slice of one ('train[:10%]'), or 'all'. Evaluation splits replace each other:
        where 'test' is missing or has no labels, 'validation' is read.
      image_size: height and width of the largest crop, in pixels.

    Returns:
      An ArraySource for small images of one size, otherwise a TfdsSource.

    Raises:
      UserError: an unknown name, config, version or split.
      DataError: the data set is not prepared, its file format has no random access, or tensorflow_datasets is not
        installed.
    """
    data_dir = Path(os.path.abspath(os.path.expanduser(path or os.environ.get('TFDS_DATA_DIR') or _DEFAULT_DIR)))
    folder = find(name, data_dir)
    if not list(folder.glob('*.array_record*')):
        raise DataSetupError(
            f"'{folder}' is prepared without array_record files, which random access needs -> "
            f'{PREPARE} && python -m tensorflow_datasets.scripts.convert_format '
            f'--dataset_version_dir={folder} --out_file_format=array_record'
        )
    parts = parse_slices(split, f"'{folder}': split")
    tfds = _import(folder)
    builder = tfds.builder_from_directory(str(folder))
    features = builder.info.features
    if 'image' not in features:
        raise DataError(f"'{folder}' has no feature 'image', only {', '.join(features)} -> use an image data set")

    def records_of(split: str) -> Any:
        try:
            return builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
        except (ValueError, TypeError, AssertionError, NotImplementedError) as error:
            reason = ' '.join(str(error).split()) or type(error).__name__
            raise UserError(f"'{folder}' cannot be read as {split!r}: {reason}", remedy='give other slices') from error

    def is_labeled(split: str) -> bool:
        """The test split of ImageNet and others has label -1 throughout: a few records tell."""
        if 'label' not in features:
            return False
        records = records_of(split)
        few = np.linspace(0, len(records) - 1, min(len(records), 8)).astype(int)
        return any(int(records[int(i)]['label']) >= 0 for i in few)

    available = _splits(folder)
    if split == 'all':
        split = '+'.join(available)
    else:
        where = f"'{folder}'"
        split = '+'.join(resolve_split(part.split, available, where, is_labeled) + part.text for part in parts)
    records = records_of(split)
    if not len(records):
        raise UserError(f"'{folder}': split {split!r} has no images", remedy='give a larger slice')
    names = getattr(features['label'], 'names', None) if 'label' in features else None
    source = TfdsSource(
        records,
        name=f'{name}:{split}',
        classes=tuple(names) if names else None,
        labeled='label' in features,
        image_size=image_size,
    )
    height, width = tuple(features['image'].shape or (None, None))[:2]
    if height and width and len(source) * height * width * 3 <= IN_MEMORY_BYTES:
        return _in_memory(source)
    return source


_DEFAULT_DIR = os.path.join('~', 'tensorflow_datasets')


def find(name: str, data_dir: Path) -> Path:
    """The folder of a prepared data set, found without tensorflow_datasets.

    Args:
      name: '<name>' or '<name>/<config>'; with ':<version>' for another version than the newest.
      data_dir: the folder that holds the prepared data sets.

    Raises:
      UserError: an unknown name, config or version.
      DataError: the data set is not prepared.
    """
    base, version = name.partition(':')[::2]
    dataset, config = base.partition('/')[::2]
    prepared = _prepared(data_dir)
    if dataset not in prepared:
        known = list(dict.fromkeys([*prepared, *WELL_KNOWN]))
        near = did_you_mean(dataset, known)
        if not dataset or (near and dataset not in WELL_KNOWN):
            raise UserError(f'TFDS data set {dataset!r} is unknown{near} -> choose from {", ".join(known)}')
        raise DataSetupError(_how_to_prepare(dataset, config, data_dir, prepared))
    configs = prepared[dataset]
    if not config and '' not in configs and len(configs) > 1:
        choices = ', '.join(f'{dataset}/{config}' for config in sorted(configs))
        raise UserError(f"TFDS data set '{dataset}' has several configs -> set data.name to one of {choices}")
    chosen = config if config or '' in configs else next(iter(configs))
    if chosen not in configs:
        raise UserError(
            f"TFDS data set '{dataset}' is not prepared with config {config!r}{did_you_mean(config, configs)} -> "
            f'choose from {", ".join(sorted(configs))}'
        )
    versions = {folder.name: folder for folder in configs[chosen]}
    if version and version not in versions:
        raise UserError(
            f"TFDS data set '{base}' is not prepared in version {version!r}{did_you_mean(version, versions)} -> "
            f'choose from {", ".join(sorted(versions))}'
        )
    return versions[version] if version else max(versions.values(), key=_version_number)


def _prepared(data_dir: Path) -> dict[str, dict[str, list[Path]]]:
    """All prepared data sets in data_dir: {name: {config or '': [version folders]}}."""
    found: dict[str, dict[str, list[Path]]] = {}
    for depth in ('*/*', '*/*/*'):
        for info in sorted(data_dir.glob(f'{depth}/dataset_info.json')):
            dataset, *config = info.parent.parent.relative_to(data_dir).parts
            found.setdefault(dataset, {}).setdefault('/'.join(config), []).append(info.parent)
    return found


def _version_number(folder: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r'\d+', folder.name))


def _splits(folder: Path) -> list[str]:
    try:
        info = json.loads((folder / 'dataset_info.json').read_text(encoding='utf-8'))
        return [split['name'] for split in info['splits']]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read '{folder / 'dataset_info.json'}': {error} -> prepare the data again") from error


def _how_to_prepare(dataset: str, config: str, data_dir: Path, prepared: dict[str, Any]) -> str:
    build = f'tfds build {dataset}{f"/{config}" if config else ""} --data_dir={data_dir} --file_format=array_record'
    manual = (
        f', after downloading ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org to '
        f'{data_dir}/downloads/manual'
        if dataset.startswith('imagenet2012')
        else ''
    )
    held = f'holds {", ".join(sorted(prepared))}' if prepared else 'holds no prepared data set'
    return (
        f"TFDS data set '{dataset}' is not prepared: looked for '{data_dir / dataset}/.../dataset_info.json'; "
        f"'{data_dir}' {held}{'' if _installed() else ', and tensorflow_datasets is not installed'} -> {PREPARE} && "
        f'{build}{manual}; or set data.path to the data_dir that holds it'
    )


def _installed() -> bool:
    """Whether tensorflow_datasets is installed; it is not imported."""
    try:
        return importlib.util.find_spec('tensorflow_datasets') is not None
    except ValueError:  # the module is imported but has no spec, as modules made in memory
        return True


def _import(folder: Path) -> ModuleType:
    try:
        import tensorflow_datasets
    except ImportError as error:
        needs = f"'{folder}' is prepared, but reading it needs tensorflow_datasets ({error})"
        raise DataSetupError(f'{needs} -> {INSTALL}') from error
    return tensorflow_datasets


def _in_memory(source: TfdsSource) -> ArraySource:
    with futures.ThreadPoolExecutor() as threads:
        try:
            pictures, labels = zip(*threads.map(source.example, range(len(source))), strict=True)
        except images.ImageError as error:
            raise DataError(f'{source.name}: an image cannot be read: {error} -> prepare the data again') from error
    return ArraySource(
        np.stack(pictures),
        np.array(labels) if source._labeled else None,
        name=source.name,
        classes=source.classes,
    )
