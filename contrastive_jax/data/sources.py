"""What a data set is here: n examples with random access. Arrays in memory, `.npz` files, the digits; and `load`."""

import abc
import difflib
import hashlib
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contrastive_jax.errors import DataError, MissingSplitError, UserError

SOURCES = ('digits', 'npz', 'folder', 'tfds')

# The names under which a split that is kept for evaluation goes, in the order in which they stand in for each other.
EVALUATION_SPLITS = ('test', 'validation', 'val')


class DataSetupError(DataError):
    """Data that can never serve the config as it stands: exit code 2, since a retry cannot help."""

    exit_code = 2


class Source(abc.ABC):
    """n examples, each an image and perhaps a label, with random access. Thread-safe, and picklable for workers.

    Attributes:
      name: for logs and messages.
      classes: the name of every label, None where unknown.
      array: all images as one uint8 array [n, H, W, 3] where they are in memory, so that they can live on the device;
        None where they are decoded one by one.
    """

    name: str
    classes: tuple[str, ...] | None = None
    array: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray | None:
        """int32 [n], -1 where unknown; None if there are no labels. May read the whole data set when first asked."""
        return None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def image(self, i: int) -> np.ndarray:
        """Image i, uint8 [H, W, 3], RGB. Raises ImageError if it cannot be read."""

    def label(self, i: int) -> int:
        """The label of example i, -1 without one."""
        return -1 if self.labels is None else int(self.labels[i])

    def example(self, i: int) -> tuple[np.ndarray, int]:
        """Image and label of example i, read together."""
        return self.image(i), self.label(i)

    def file_name(self, i: int) -> str:
        """Where example i lies: what to look at when it is damaged."""
        return str(i)

    @property
    def fingerprint(self) -> str:
        """Changes when examples are added, removed or reordered: a resumed run compares it."""
        return hashlib.sha256(f'{type(self).__name__} {len(self)} {self.classes}'.encode()).hexdigest()[:16]


class ArraySource(Source):
    """Images in memory.

    Args:
      images: uint8 [n, H, W, 3]; [n, H, W, 1] and [n, H, W] are grey and become three equal channels. Any other dtype
        is refused: whether floats mean [0, 1], [-1, 1] or [0, 255] cannot be told, and a wrong guess trains in silence.
      labels: integers [n] or [n, 1], or None.
      name: for messages.
      classes: names of the labels.

    Raises:
      DataError: the arrays are not of these forms.
    """

    array: np.ndarray

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        name: str = 'array',
        classes: tuple[str, ...] | None = None,
    ):
        self.name = name
        self.classes = classes
        self.array = _rgb_images(np.asarray(images), name)
        self._labels = None if labels is None else _class_labels(np.asarray(labels), len(self.array), name)

    @property
    def labels(self) -> np.ndarray | None:
        return self._labels

    def __len__(self) -> int:
        return len(self.array)

    def image(self, i: int) -> np.ndarray:
        return self.array[i]

    @property
    def fingerprint(self) -> str:
        few = self.array[:: max(1, len(self.array) // 64)]
        return hashlib.sha256(repr(self.array.shape).encode() + few.tobytes()).hexdigest()[:16]


class Subset(Source):
    """Some examples of another source, in a given order.

    Args:
      source: where they are.
      ids: int[n], which they are.
    """

    def __init__(self, source: Source, ids: np.ndarray):
        self.name, self.classes = source.name, source.classes
        self._source, self._ids = source, ids
        self.array = None if source.array is None else source.array[ids]

    @property
    def labels(self) -> np.ndarray | None:
        return None if self._source.labels is None else self._source.labels[self._ids]

    def __len__(self) -> int:
        return len(self._ids)

    def image(self, i: int) -> np.ndarray:
        return self._source.image(int(self._ids[i]))

    def label(self, i: int) -> int:
        return self._source.label(int(self._ids[i]))

    def example(self, i: int) -> tuple[np.ndarray, int]:
        return self._source.example(int(self._ids[i]))

    def file_name(self, i: int) -> str:
        return self._source.file_name(int(self._ids[i]))

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._source.fingerprint.encode() + self._ids.tobytes()).hexdigest()[:16]


def _rgb_images(images: np.ndarray, name: str) -> np.ndarray:
    given = f'{name}: images are {images.dtype}{list(images.shape)}'
    if images.dtype != np.uint8:
        hint = '(255 * x).round().astype("uint8") for values in [0, 1]'
        raise DataError(f'{given}, not uint8 in 0..255 -> store them as uint8, e.g. {hint}')
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        raise DataError(f'{given}, channels first -> store them as [n, H, W, 3]: x.transpose(0, 2, 3, 1)')
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise DataError(f'{given} -> give [n, H, W, 3] (RGB) or [n, H, W] (grey), with n, H, W >= 1')
    return np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:3], 3)))


def _class_labels(labels: np.ndarray, n: int, name: str) -> np.ndarray:
    given = f'{name}: labels are {labels.dtype}{list(labels.shape)} for {n} images'
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f'{given} -> give one integer class per image, [n] (one-hot: labels.argmax(1))')
    if labels.min() < -1 or labels.max() > np.iinfo(np.int32).max:
        raise DataError(f'{given}, from {labels.min()} to {labels.max()} -> number the classes from 0; -1 is unknown')
    return labels.astype(np.int32)


def load(source: str, name: str = '', path: str = '', split: str = 'train', image_size: int = 224) -> Source:
    """Opens a split of a data set. Reads only what is on this machine, and never downloads.

    Args:
      source: 'digits' (embedded), 'npz' (a file), 'folder' (image files) or 'tfds' (prepared by TensorFlow Datasets).
      name: of the TFDS data set, e.g. 'cifar10' or 'imagenet_resized/64x64'. For 'npz' and 'folder' what logs call the
        data, by default the name of the file or folder.
      path: the file or folder; for 'tfds' the data_dir, by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
      split: 'train', 'test', or another split that the data has. Where there is no 'test', 'validation' or 'val' stands
        in for it, and the other way round.
      image_size: the largest crop that will be cut, in pixels. JPEGs many times larger are decoded at a reduced size.

    Raises:
      UserError: an unknown source, data set name or split.
      DataError: the data is missing, damaged, or has no such split.
    """
    # Here, since these two build on this file.
    from contrastive_jax.data import folder, tfds

    if source not in SOURCES:
        raise UserError(f'unknown data source {source!r}{suggestion(source, SOURCES)}')
    if source == 'digits':
        if name not in ('', 'digits'):
            raise UserError(
                f"data.source='digits' has no data set {name!r} -> set --config.data.name=digits, "
                f'or --config.data.source to one of {", ".join(SOURCES[1:])}'
            )
        return digits(split)
    if '://' in path:
        raise UserError(f"data.path '{path}' is not local -> mount the bucket (gcsfuse) and give the mounted folder")
    if source == 'tfds':
        return tfds.load(name, path, split, image_size)
    if not path:
        raise UserError(f"data.source='{source}' needs data.path -> --config.data.path=<{source}>")
    location = Path(os.path.abspath(os.path.expanduser(path)))  # a message with a relative path says little
    if source == 'npz':
        return load_npz(location, split, name)
    return folder.load(location, split, image_size, name)


def digits(split: str = 'train') -> ArraySource:
    """scikit-learn's handwritten digits: 1,797 grey images of 8x8; the first 1,437 are 'train', the last 360 'test'."""
    from sklearn.datasets import load_digits  # a second to import, needed by nobody else

    split = resolve_split(split, ('train', 'test'), 'digits')
    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)  # stored as 0..16
    rows = slice(0, 1437) if split == 'train' else slice(1437, None)
    return ArraySource(images[rows], data.target[rows], name='digits', classes=tuple('0123456789'))


# The keys of images and labels, split by split, that np.savez files of image data sets commonly use.
_NPZ_KEYS = {
    'train': (('train_images', 'train_labels'), ('x_train', 'y_train'), ('images', 'labels')),
    'test': (('test_images', 'test_labels'), ('x_test', 'y_test')),
}
_NPZ_FORMS = 'train_images/train_labels/test_images/test_labels, x_train/y_train/x_test/y_test, or images/labels'


def load_npz(path: Path, split: str, name: str = '') -> ArraySource:
    """A split of an `.npz` file; labels are optional. Nothing in the file can run code: pickled objects are refused."""
    if not path.is_file():
        what = 'is a folder' if path.is_dir() else 'does not exist'
        near = suggestion(path.name, [p.name for p in path.parent.glob('*.npz')]) if path.parent.is_dir() else ''
        raise DataError(
            f"data.path '{path}' {what}; looked for an .npz file{near} -> set --config.data.path to a file that "
            f'np.savez wrote, with the arrays {_NPZ_FORMS}'
        )
    split = resolve_split(split, tuple(_NPZ_KEYS), str(path))
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise DataError(f"'{path}' holds one bare array -> save it by name: np.savez(path, images=x, labels=y)")
        with file:
            for images, labels in _NPZ_KEYS[split]:
                if images in file:
                    return ArraySource(file[images], file.get(labels), name=name or path.stem)
            held = ', '.join(file.files) or 'nothing'
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        pickled = 'allow_pickle' in str(error)
        reason = 'no plain arrays (pickled objects are refused)' if pickled else ' '.join(str(error).split())
        raise DataError(f"cannot read '{path}': {reason} -> write it again with np.savez, as uint8 arrays") from error
    raise MissingSplitError(f"'{path}' has no split {split!r}: it holds {held} -> name the arrays {_NPZ_FORMS}")


def resolve_split(split: str, available: Sequence[str], where: str) -> str:
    """The split that is meant: itself, or one evaluation split for another.

    Raises:
      UserError: no split goes by this name.
      MissingSplitError: the data has no split for evaluation.
    """
    if split in available:
        return split
    if split not in EVALUATION_SPLITS:
        raise UserError(f'{where} has no split {split!r}{suggestion(split, [*available, "train", "test"])}')
    for other in EVALUATION_SPLITS:
        if other in available:
            return other
    raise MissingSplitError(
        f'{where} has no split {split!r}: there is {", ".join(available)} -> add one, or evaluate elsewhere'
    )


def suggestion(given: str, choices: Sequence[str]) -> str:
    """The end of an error line: close matches, if any, and the choices."""
    choices = list(dict.fromkeys(choices))
    near = difflib.get_close_matches(given, choices, n=3, cutoff=0.6)
    meant = f'; did you mean {" or ".join(map(repr, near))}?' if near else ''
    return f'{meant} -> choose from {", ".join(choices)}' if choices else meant
