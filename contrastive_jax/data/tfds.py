"""Data sets prepared by TensorFlow Datasets as `array_record`, read by name without TensorFlow and without a network.

What is on disk is found by looking at the folders, before tensorflow_datasets is imported: it may ask a cloud bucket
about data that is not there. Preparing a data set, or converting one from `tfrecord`, is the one thing that needs
TensorFlow; the errors print the commands.
"""

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
from contrastive_jax.data.folder import DRAFT_FACTOR
from contrastive_jax.data.sources import ArraySource, DataSetupError, Source, resolve_split, suggestion
from contrastive_jax.errors import DataError, UserError

# Image data sets of the papers, to recognise a misspelt name; any other prepared data set works as well.
WELL_KNOWN = (
    'caltech101', 'cifar10', 'cifar100', 'dtd', 'fashion_mnist', 'food101', 'imagenet2012', 'imagenet2012_subset',
    'imagenet_resized', 'mnist', 'oxford_flowers102', 'oxford_iiit_pet', 'places365_small', 'stanford_dogs', 'stl10',
    'sun397', 'svhn_cropped',
)  # fmt: skip

# Images of one fixed size are decoded into memory up to here, so that they can live on the device. CIFAR is 0.15 GB.
IN_MEMORY_BYTES = 1 << 30

INSTALL = "pip install -e '.[tfds]'"
PREPARE = f'{INSTALL} tensorflow apache-beam mlcroissant'  # what the scripts of tensorflow_datasets import


class TfdsSource(Source):
    """Records of a split, read and decoded one by one.

    Args:
      records: a `tfds.data_source` that leaves images encoded: record i is {'image': bytes, 'label': int, ...}.
      name: for messages.
      classes: names of the labels.
      labelled: whether records have a label.
      image_size: the largest crop to be cut, in pixels; much larger JPEGs are decoded at a reduced size.
    """

    def __init__(
        self, records: Any, *, name: str, classes: tuple[str, ...] | None, labelled: bool, image_size: int = 224
    ):
        self.name = name
        self.classes = classes
        self._records = records
        self._labelled = labelled
        self._min_side = DRAFT_FACTOR * image_size

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """int32 [n], or None. Reads every record when first asked: about a minute and all the bytes of ImageNet."""
        if not self._labelled:
            return None
        return np.array([int(record['label']) for record in map(self._records.__getitem__, range(len(self)))], np.int32)

    def __len__(self) -> int:
        return len(self._records)

    def image(self, i: int) -> np.ndarray:
        return self.example(i)[0]

    def label(self, i: int) -> int:
        return int(self._record(i)['label']) if self._labelled else -1

    def example(self, i: int) -> tuple[np.ndarray, int]:
        record = self._record(i)
        image = images.decode(record['image'], min_side=self._min_side)
        return image, int(record['label']) if self._labelled else -1

    def file_name(self, i: int) -> str:
        return f'{self.name}[{i}]'

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f'{self.name} {len(self)}'.encode()).hexdigest()[:16]

    def _record(self, i: int) -> Any:
        try:
            return self._records[i]
        except Exception as error:  # a damaged shard raises the readers' own types
            raise images.ImageError(f'{type(error).__name__}: {error}') from error


def load(name: str, path: str = '', split: str = 'train', image_size: int = 224) -> Source:
    """Opens a split of a prepared data set.

    Args:
      name: '<name>', '<name>/<config>', each with ':<version>' if it is not to be the newest.
      path: the data_dir; by default $TFDS_DATA_DIR, or ~/tensorflow_datasets.
      split: a split of the data set, also a slice of one ('train[:10%]'); 'test' means 'validation' where there is no
        'test'.
      image_size: the largest crop to be cut, in pixels.

    Returns:
      An ArraySource for small images of one size, otherwise a TfdsSource.

    Raises:
      UserError: no such name, config or split; tensorflow_datasets is not installed.
      DataError: not prepared, or prepared in a format without random access.
    """
    data_dir = Path(os.path.abspath(os.path.expanduser(path or os.environ.get('TFDS_DATA_DIR') or _DEFAULT_DIR)))
    folder = find(name, data_dir)
    if not list(folder.glob('*.array_record*')):
        raise DataSetupError(
            f"'{folder}' is prepared without array_record files, so its examples cannot be read in any order -> "
            f'{PREPARE} && python -m tensorflow_datasets.scripts.convert_format '
            f'--dataset_version_dir={folder} --out_file_format=array_record'
        )
    part, slice_ = re.fullmatch(r'([^\[]*)(.*)', split, re.DOTALL).groups()  # type: ignore[union-attr]
    split = resolve_split(part, _splits(folder), f"'{folder}'") + slice_
    tfds = _import(folder)
    builder = tfds.builder_from_directory(str(folder))
    features = builder.info.features
    if 'image' not in features:
        raise DataError(f"'{folder}' has no feature 'image': it has {', '.join(features)} -> use an image data set")
    records = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
    names = getattr(features['label'], 'names', None) if 'label' in features else None
    source = TfdsSource(
        records,
        name=f'{name}:{split}',
        classes=tuple(names) if names else None,
        labelled='label' in features,
        image_size=image_size,
    )
    height, width = tuple(features['image'].shape or (None, None))[:2]
    if height and width and len(source) * height * width * 3 <= IN_MEMORY_BYTES:
        return _in_memory(source)
    return source


_DEFAULT_DIR = os.path.join('~', 'tensorflow_datasets')


def find(name: str, data_dir: Path) -> Path:
    """The folder of the newest (or the named) version of a prepared data set, found without tensorflow_datasets."""
    base, version = name.partition(':')[::2]
    dataset, config = base.partition('/')[::2]
    prepared = _prepared(data_dir)
    if dataset not in prepared:
        near = suggestion(dataset, [*prepared, *WELL_KNOWN])
        if not dataset or ('did you mean' in near and dataset not in WELL_KNOWN):
            raise UserError(f'unknown TFDS data set {dataset!r}{near}')
        raise DataSetupError(_how_to_prepare(dataset, config, data_dir, prepared))
    configs = prepared[dataset]
    if not config and '' not in configs and len(configs) > 1:
        raise UserError(f"'{dataset}' has several configs -> set --config.data.name={dataset}/<config>, one of "
                        f'{", ".join(sorted(configs))}')  # fmt: skip
    chosen = config if config or '' in configs else next(iter(configs))
    if chosen not in configs:
        raise UserError(f"'{dataset}' is not prepared with config {config!r}{suggestion(config, sorted(configs))}")
    versions = {folder.name: folder for folder in configs[chosen]}
    if version and version not in versions:
        raise UserError(f"'{base}' is not prepared in version {version!r}{suggestion(version, sorted(versions))}")
    return versions[version] if version else max(versions.values(), key=_version_number)


def _prepared(data_dir: Path) -> dict[str, dict[str, list[Path]]]:
    """Every prepared data set in data_dir: {name: {config or '': [version folders]}}."""
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
        f'{build}{manual}; or set --config.data.path to the data_dir that holds it'
    )


def _installed() -> bool:
    """Whether tensorflow_datasets is there, without importing it."""
    try:
        return importlib.util.find_spec('tensorflow_datasets') is not None
    except ValueError:  # imported already, by other means than a file
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
        np.array(labels) if source._labelled else None,
        name=source.name,
        classes=source.classes,
    )
