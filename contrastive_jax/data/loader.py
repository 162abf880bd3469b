"""The loader on the host, for data that does not fit on the device: Grain decodes each image once and cuts its crops.

Element k of a process's stream is one position in training, (step, row of the global batch). Its image and its crops
depend only on (seed, step, row), so training can start at any step at no cost, and a resumed run, or a run on another
number of hosts, gets identical crops. The crops have the type of the images, uint8 or uint16; all other augmentation
runs on the device.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags, logging

from contrastive_jax.augment.styles import STYLES
from contrastive_jax.data import images, sampler
from contrastive_jax.data.sources import Source
from contrastive_jax.distributed.cores import usable_cores
from contrastive_jax.errors import DataError, UserError

Batch = dict[str, Any]

# The run stops when more images than this are unreadable, because the data set itself is then damaged.
MAX_BAD_FRACTION = 0.01
MAX_BAD_FEW = 5  # always tolerated, for small data sets and early steps
MAX_BAD_IN_A_ROW = 10

PREFETCH_BATCHES = 2


class Bad(NamedTuple):
    """An image that could not be read: its index, where it is stored, and the reason."""

    example: int
    file: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """A function from a position in a process's stream to an example. Picklable, for worker processes.

    Attributes:
      source: the data.
      batch_size: the global batch size.
      interpolation: a key of images.INTERPOLATIONS.
      style: a key of styles.STYLES.
      process_index, process_count: the process reads one contiguous part of the rows of each global batch.
    """

    source: Source
    batch_size: int
    interpolation: str
    style: str
    process_index: int
    process_count: int

    def position(self, k: int) -> tuple[int, int]:
        """The batch, from 0, and the row in the global batch of element k of this process's stream."""
        local = self.batch_size // self.process_count
        return k // local, self.process_index * local + k % local


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainExample(Example):
    """The crops, index and label of a training example.

    Attributes:
      seed: the seed of order and crops.
      start_step: the step of the first batch.
      views: the size in pixels and the (smallest, largest) area fraction of each crop.
      crop_ratio: (smallest, largest) width / height of the crops.
    """

    seed: int
    start_step: int
    views: tuple[tuple[int, Sequence[float]], ...]
    crop_ratio: Sequence[float]

    def __call__(self, k: int) -> Batch:
        batch, row = self.position(k)
        step = self.start_step + batch
        wanted = sampler.batch_index(self.seed, step, len(self.source), self.batch_size)[row]
        index, picture, label, bad = self.readable(int(wanted))
        # The last number makes this stream different from that of the epoch's order, (seed, epoch).
        rng = np.random.default_rng((self.seed, step, row, 1))
        style = STYLES[self.style]
        crops = tuple(
            images.random_resized_crop(picture, rng, size, scale, self.crop_ratio, self.interpolation, style)
            for size, scale in self.views
        )
        return {'crops': crops, 'index': index, 'label': label, 'bad': bad}

    def readable(self, index: int) -> tuple[int, np.ndarray, int, tuple[Bad, ...]]:
        """Reads this example or, if its image is damaged, the next readable one by index, the same in every run."""
        bad: list[Bad] = []
        for shift in range(min(MAX_BAD_IN_A_ROW + 1, len(self.source))):
            i = (index + shift) % len(self.source)
            try:
                picture, label = self.source.example(i)
            except images.ImageError as error:
                bad.append(Bad(i, self.source.file_name(i), str(error)))
            else:
                return i, picture, label, tuple(bad)
        raise DataError(
            f'{len(bad)} images in a row cannot be read, from {bad[0].file} ({bad[0].reason}) to {bad[-1].file} -> '
            'check the files and their permissions'
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalExample(Example):
    """The center crop, index and label of an evaluation example; past the end of `indices`, a row marked with -1.

    Attributes:
      indices: int [m], the examples to read, in order.
      image_size: height and width of the result, in pixels.
    """

    indices: np.ndarray
    image_size: int

    def __call__(self, k: int) -> Batch:
        batch, row = self.position(k)
        position = batch * self.batch_size + row
        bad: tuple[Bad, ...] = ()
        if position < len(self.indices):
            index = int(self.indices[position])
            try:
                picture, label = self.source.example(index)
                return {'image': self.view(picture), 'index': index, 'label': label, 'bad': bad}
            except images.ImageError as error:
                bad = (Bad(index, self.source.file_name(index), str(error)),)
        empty = np.zeros((self.image_size, self.image_size, self.source.channels), self.source.dtype)
        return {'image': empty, 'index': -1, 'label': -1, 'bad': bad}

    def view(self, picture: np.ndarray) -> np.ndarray:
        """Keeps images of the right size and center-crops all others."""
        if picture.shape[:2] == (self.image_size, self.image_size):
            return picture
        fraction = images.crop_fraction(self.image_size)
        return images.center_crop(picture, self.image_size, self.interpolation, STYLES[self.style], fraction)


def train_batches(
    source: Source,
    *,
    seed: int,
    batch_size: int,
    image_size: int | Sequence[int],
    num_views: int,
    crop_scale: Sequence[Any] = (0.08, 1.0),
    crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
    interpolation: str = 'bilinear',
    style: str = 'pil',
    start_step: int = 0,
    stop_step: int,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """This process's rows of the batches of steps start_step..stop_step-1.

    An unreadable image is replaced by the next readable one by index, logged once and counted; 'index' and 'label' are
    those of the image that is used. Close the iterator (`.close()`) to stop before its end.

    Args:
      source: the data.
      seed: at least 0. Seed, step and row determine the example and its crops.
      batch_size: the global batch size, divisible by process_count.
      image_size: height and width of the crops, in pixels; one for each view if they differ (multi-crop).
      num_views: the number of crops of each image.
      crop_scale: (smallest, largest) area of a crop, as a fraction of the image's; one pair for each view if they
        differ.
      crop_ratio: (smallest, largest) width / height of a crop.
      interpolation: a key of images.INTERPOLATIONS.
      style: a key of styles.STYLES, which decides how boxes are drawn and whether crops are antialiased.
      start_step, stop_step: the first step, and the step after the last.
      num_workers: 0 reads with threads of this process (decoding and resizing release Python's global lock); n > 0
        reads with n processes, each making whole batches, for hosts with so many cores that the lock limits threads.
      process_index, process_count: the process takes the rows [index * b, (index + 1) * b), b = batch_size / count.

    Yields:
      {'crops': (uint8 or uint16 [b, size, size, C], ...) one per view, 'index': int32 [b], 'label': int32 [b]}, where
      -1 is an unknown label.

    Raises:
      UserError: batch_size is not divisible by process_count, or larger than the data.
      DataError: too many images cannot be read, or a worker process died.
    """
    local = _local_batch_size(batch_size, process_count)
    sampler.steps_per_epoch(len(source), batch_size)  # raises for too few images here rather than inside a thread
    sizes = (image_size,) * num_views if isinstance(image_size, int) else tuple(image_size)
    scales = (tuple(crop_scale),) * num_views if np.ndim(crop_scale[0]) == 0 else tuple(crop_scale)
    if len(sizes) != num_views or len(scales) != num_views:
        raise UserError(
            f'{num_views} views have {len(sizes)} crop sizes and {len(scales)} crop scales -> give one for each view'
        )
    example = TrainExample(
        source=source,
        seed=seed,
        batch_size=batch_size,
        views=tuple(zip(sizes, scales, strict=True)),
        crop_ratio=tuple(crop_ratio),
        interpolation=interpolation,
        style=style,
        start_step=start_step,
        process_index=process_index,
        process_count=process_count,
    )
    return _batches(example, (stop_step - start_step) * local, local, num_workers, len(source))


def eval_batches(
    source: Source,
    *,
    indices: np.ndarray | None = None,
    image_size: int,
    batch_size: int,
    interpolation: str = 'bilinear',
    style: str = 'pil',
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """This process's rows of batches that contain each example of `indices` once, in order.

    A row without an example has index -1, label -1 and a black image. Such rows fill the last batch, so that all
    processes take the same number of steps, and replace unreadable images, which are logged and counted.

    Args:
      source: the data.
      indices: int [m], the examples to read; None reads all.
      image_size: height and width of the result, in pixels. Images of this size are not changed, all others are
        center-cropped (`images.center_crop`, with `images.crop_fraction`).
      batch_size: the global batch size, divisible by process_count.
      interpolation: a key of images.INTERPOLATIONS.
      style: a key of styles.STYLES, which decides whether resized images are antialiased.
      process_index, process_count: as in `train_batches`.

    Yields:
      {'image': uint8 or uint16 [b, size, size, C], 'index': int32 [b], 'label': int32 [b]}.

    Raises:
      UserError: batch_size is not divisible by process_count.
      DataError: too many images cannot be read.
    """
    local = _local_batch_size(batch_size, process_count)
    indices = np.arange(len(source)) if indices is None else np.asarray(indices)
    if source.array is not None and source.array.shape[1:3] == (image_size, image_size):
        return _rows_in_memory(source, source.array, indices, batch_size, local, process_index * local)
    example = EvalExample(
        source=source,
        indices=indices,
        image_size=image_size,
        batch_size=batch_size,
        interpolation=interpolation,
        style=style,
        process_index=process_index,
        process_count=process_count,
    )
    return _batches(example, -(-len(indices) // batch_size) * local, local, 0, len(indices))


def _rows_in_memory(
    source: Source, array: np.ndarray, indices: np.ndarray, batch_size: int, local: int, first: int
) -> Iterator[Batch]:
    """The batches of `eval_batches` from images that need no work. Grain takes a quarter of a millisecond for each."""
    labels = np.full(len(source), -1) if source.labels is None else source.labels
    for start in range(first, first - (-len(indices) // batch_size) * batch_size, batch_size):
        wanted = indices[start : start + local]
        rows = np.full(local, -1, np.int32)  # [b]
        rows[: len(wanted)] = wanted
        exists = rows >= 0
        image = np.where(exists[:, None, None, None], array[rows], np.zeros((), array.dtype))  # [b, size, size, C]
        yield {'image': image, 'index': rows, 'label': np.where(exists, labels[rows], -1).astype(np.int32)}


def _local_batch_size(batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        below = batch_size // process_count * process_count
        near = ' or '.join(str(b) for b in (below, below + process_count) if b)
        raise UserError(f'batch_size {batch_size} is not divisible by {process_count} processes -> use {near}')
    return batch_size // process_count


def _batches(example: Any, count: int, local: int, num_workers: int, n: int) -> Iterator[Batch]:
    """Runs `example` over range(count), in order and ahead of the consumer, and stacks each `local` results."""
    examples = grain.MapDataset.range(count).map(example)
    if num_workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads its own absl flags to start workers, also in other programs
        # Each worker process makes whole batches, so that crops are sent in few, large blocks of shared memory.
        ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        workers = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=PREFETCH_BATCHES)
        stacked = examples.batch(local, drop_remainder=True, batch_fn=_stack).to_iter_dataset(ahead)
        dataset = stacked.mp_prefetch(workers)
    else:
        ahead = grain.ReadOptions(num_threads=usable_cores(), prefetch_buffer_size=PREFETCH_BATCHES * local)
        dataset = examples.to_iter_dataset(ahead).batch(local, drop_remainder=True, batch_fn=_stack)
    tally = Tally(n)
    iterator = iter(dataset)
    try:
        for batch in iterator:
            tally.count(local, batch.pop('bad'))
            yield batch
    except RuntimeError as error:
        if 'Worker process' not in str(error):
            raise
        raise DataError(
            f'a worker process of the data loader died: {error} -> use fewer data.workers, or 0 for threads (exit code '
            '-9 usually means too little memory, -7 a full /dev/shm)'
        ) from error
    finally:
        iterator.close()


def _stack(examples: Sequence[Batch]) -> Batch:
    batch: Batch = {'bad': tuple(bad for example in examples for bad in example['bad'])}
    if 'crops' in examples[0]:
        batch['crops'] = tuple(np.stack(crops) for crops in zip(*(e['crops'] for e in examples), strict=True))
    else:
        batch['image'] = np.stack([e['image'] for e in examples])
    for name in ('index', 'label'):
        batch[name] = np.array([e[name] for e in examples], np.int32)
    return batch


class Tally:
    """Counts the unreadable images of a process, logs each once, and raises an error if there are too many.

    Args:
      n: the number of examples in the data; in later epochs the fraction stays relative to n.
    """

    def __init__(self, n: int):
        self.n = n
        self.seen = 0
        self.bad: set[int] = set()

    def count(self, examples: int, bad: Sequence[Bad]) -> None:
        """Counts one batch.

        Args:
          examples: the number of examples in the batch.
          bad: the unreadable images in it.

        Raises:
          DataError: more than MAX_BAD_FEW images, and more than MAX_BAD_FRACTION of those seen, cannot be read.
        """
        self.seen += examples
        seen = min(self.seen, self.n)
        for example, file, reason in bad:
            if example in self.bad:
                continue
            self.bad.add(example)
            logging.warning('cannot read image %s (%s); it is skipped', file, reason)
            if len(self.bad) > max(MAX_BAD_FEW, MAX_BAD_FRACTION * seen):
                raise DataError(
                    f'{len(self.bad)} of {seen} images cannot be read, more than {MAX_BAD_FRACTION:.0%}; the last was '
                    f'{file} ({reason}) -> repair or remove them; the log names each'
                )
