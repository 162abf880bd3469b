"""A data set that a user's Python class defines: `data.source = 'my_package.module:MyImages'`.

The class is built as `MyImages(split=..., path=...)`, with the values of the section `data`. It needs two methods:

    def __len__(self) -> int: ...
    def example(self, i: int) -> tuple[np.ndarray, int]: ...  # uint8 [H, W, 3] (RGB) or [H, W] (gray); label or -1

An image may also have another number of channels, [H, W, C], and be uint16; all images of a class are alike then.
`example` must give the same image whenever it is called with the same i, from several threads at once. It may raise
`contrastive_jax.data.images.ImageError` for an image that cannot be read. The class raises
`contrastive_jax.errors.MissingSplitError` for a split that the data does not have. Optional attributes: `name` (for
messages), `classes` (names of the classes) and `labels` (int [n], so that labels are known without reading images).
"""

import contextlib
import functools
from typing import Any

import numpy as np

from contrastive_jax.data.images import ImageError
from contrastive_jax.data.pixels import image_array
from contrastive_jax.data.sources import Source
from contrastive_jax.errors import DataError, UserError
from contrastive_jax.rules import import_named

LOOKED_AT = 10  # first examples that may be unreadable; a readable one tells the channels and the depth of all


class ObjectSource(Source):
    """Adapts an object with `__len__` and `example(i)` to a source.

    Args:
      examples: the object.
      name: its name in logs and messages, unless it has an attribute `name`.
      channels, value_range: see `ArraySource`.
    """

    def __init__(self, examples: Any, name: str, channels: int = 0, value_range: float = 0):
        self.name = str(getattr(examples, 'name', name))
        classes = getattr(examples, 'classes', None)
        self.classes = None if classes is None else tuple(map(str, classes))
        self._examples = examples
        if len(examples) < 1:
            raise DataError(f'{self.name} has no examples -> __len__ must be at least 1')
        self._wanted, self._range = channels, value_range
        for i in range(min(len(examples), LOOKED_AT)):
            with contextlib.suppress(ImageError):
                image, _ = self._read(i)
                self.channels, self.dtype = image.shape[2], image.dtype
                break

    def __len__(self) -> int:
        return len(self._examples)

    @functools.cached_property
    def _labels(self) -> np.ndarray | None:
        given = getattr(self._examples, 'labels', None)
        labels = np.array([self.example(i)[1] for i in range(len(self))] if given is None else given)
        if labels.shape != (len(self),) or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(
                f'{self.name}: labels are {labels.dtype}{list(labels.shape)} for {len(self)} images -> give one '
                'integer class per image, -1 where it is unknown'
            )
        return labels.astype(np.int32) if (labels >= 0).any() else None

    @property
    def labels(self) -> np.ndarray | None:
        return self._labels

    def image(self, i: int) -> np.ndarray:
        return self.example(i)[0]

    def example(self, i: int) -> tuple[np.ndarray, int]:
        image, label = self._read(i)
        if (image.shape[2], image.dtype) != (self.channels, self.dtype):
            raise DataError(
                f'{self.name}: example {i} is {image.dtype} with {image.shape[2]} channels, others are {self.dtype} '
                f'with {self.channels} -> return all images alike'
            )
        return image, label

    def _read(self, i: int) -> tuple[np.ndarray, int]:
        given, label = self._examples.example(i)
        (image,), _ = image_array(np.asarray(given)[None], f'{self.name}, example {i}', self._wanted, self._range)
        return image, int(label)


def load(source: str, path: str, split: str, channels: int = 0, value_range: float = 0) -> ObjectSource:
    """Builds the object that `data.source` names.

    Args:
      source: 'package.module:Class', or any callable of that module.
      path: `data.path`, for the class.
      split: 'train', 'test', ...
      channels, value_range: see `ArraySource`.

    Raises:
      UserError: the class cannot be imported or lacks a method.
      MissingSplitError: raised by the class where it has no such split.
    """
    made = import_named('data.source', source)(split=split, path=path)
    if missing := [name for name in ('__len__', 'example') if not hasattr(made, name)]:
        raise UserError(f'data.source {source!r} has no {" and no ".join(missing)} -> define __len__ and example(i)')
    return ObjectSource(made, source.partition(':')[2], channels, value_range)
