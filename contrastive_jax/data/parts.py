"""The splits of data that consists of files of records: which one is meant, and how labels are numbered."""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contrastive_jax.data.encoded import Joined, Records, RecordSource, look_at
from contrastive_jax.data.hold_out import without_splits
from contrastive_jax.data.labels import classes_of
from contrastive_jax.data.sources import are_classes, class_labels
from contrastive_jax.data.splits import resolve_split, split_kind
from contrastive_jax.errors import DataError

_NUMBER = re.compile(r'-?\d+')
NO_CLASSES = 'labels that are not one class for each image'


@dataclasses.dataclass(eq=False)
class Part:
    """The images of one split.

    Attributes:
      split: the name of the split; 'train' for data without splits.
      records: its images.
      labels: [n] class numbers (-1: unknown) or names ('': unknown), as stored; None: there are none.
      place: what it was read from, for the summary: '3 tar files, labels: cls'.
      classes: the names of the classes, if they are stored and `labels` are numbers.
      skipped: number of records and files that were left out, by reason.
      remarks: see `Source`.
    """

    split: str
    records: Records
    labels: np.ndarray | None
    place: str
    classes: tuple[str, ...] | None = None
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    remarks: Sequence[str] = ()


def open_split(
    parts: Sequence[Part],
    split: str,
    *,
    path: Path,
    image_size: int,
    value_range: float,
    channels: int,
    evaluation: str,
    skipped: Counter[str] | None = None,
) -> RecordSource:
    """One split of the data as a source.

    Args:
      parts: all splits of the data, at least one; a single one of the kind 'train' is data without splits.
      split: 'train', the evaluation split by any of its names, another name in `parts`, or 'all'.
      path: `data.path`.
      image_size, value_range: as in `open_source`.
      channels: 1 for gray; 0 or 3: RGB.
      evaluation: what would be a split for evaluation, for messages: 'files test-*.tar'.
      skipped: number of files of no split that were left out, by reason; they count with the training images.

    Raises:
      UserError: `split` is neither in the data nor the name of a kind of split.
      DataError: there are no images, or labels have another form.
      MissingSplitError: the data has no images for evaluation.
    """
    where = f"'{path}'"
    parts = [part for part in parts if len(part.records)] or list(parts)
    if not len(parts[0].records):
        reasons = ', '.join(f'{count:,} {reason}' for reason, count in parts[0].skipped.most_common(5)) or 'nothing'
        raise DataError(f'{where} has no images; it has {reasons} -> set data.path to data with images')
    training = [part for part in parts if split_kind(part.split) == 'train']
    if len(training) > 1:
        both = ' and '.join(part.split for part in training)
        raise DataError(f'{where} has {len(training)} training splits, {both} -> merge or rename them')
    labels, classes = _numbered(parts, where)

    def source(chosen: Sequence[int], rows: np.ndarray | None = None, added: str = '') -> RecordSource:
        some = [parts[k] for k in chosen]
        rows = np.arange(sum(len(part.records) for part in some)) if rows is None else rows
        known = [
            np.full(len(parts[k].records), -1, np.int32) if (given := labels[k]) is None else given for k in chosen
        ]
        made = RecordSource(
            some[0].records if len(some) == 1 else Joined([part.records for part in some]),
            rows,
            None if all(labels[k] is None for k in chosen) else np.concatenate(known)[rows],
            classes,
            name=path.stem if path.is_file() else path.name,
            root=path if len(parts) == 1 else path / '+'.join(part.split for part in some),
            image_size=image_size,
        )
        named = [f'{part.split}: {part.place}' if len(parts) > 1 else part.place for part in some]
        made.place = ', '.join([*named, added] if added else named)
        like = parts.index(training[0]) if training else chosen[0]
        left_out = [part.skipped for part in some] + ([skipped] if skipped and like in chosen else [])
        made.skipped = dict(sum(left_out, Counter()))
        seen, losses = look_at(made if like in chosen else source([like]))
        made.white, made.channels = value_range or seen.white, channels or 3
        made.dtype = np.dtype(np.uint16 if seen.white and channels == 1 else np.uint8)
        made.remarks = (*losses, *dict.fromkeys(remark for part in some for remark in part.remarks))
        return made

    if split == 'all':
        return source(range(len(parts)))
    if len(parts) == 1 and training:
        n = len(parts[0].records)
        return source([0], *without_splits(labels[0], n, split, where, evaluation))
    names = [part.split for part in parts]
    if not training and split_kind(split) == 'train':
        raise DataError(
            f'{where} has {", ".join(names)}, and no split {split!r} -> set data.path to the files of one split, or '
            'add a split train'
        )
    at = names.index(resolve_split(split, names, where, lambda name: _known(labels[names.index(name)])))
    made = source([at])
    if split_kind(names[at]) != 'train':
        others = [part for part in parts if part.split != names[at] and split_kind(part.split) != 'train']
        made.skipped |= {f'images in {part.split}': len(part.records) for part in others}
    return made


def _known(labels: np.ndarray | None) -> bool:
    return labels is not None and bool((labels >= 0).any())


def _numbered(parts: Sequence[Part], where: str) -> tuple[list[np.ndarray | None], tuple[str, ...] | None]:
    """Labels as int32 with -1 for unknown, numbered alike in all splits, and the names of the classes.

    Labels that are not one class for each image are left out, and counted in `skipped`.

    Raises:
      DataError: a label has no name among those that are stored.
    """
    given: dict[int, np.ndarray] = {}
    for k, part in enumerate(parts):
        if part.labels is None:
            continue
        if part.labels.dtype.kind == 'U' or are_classes(part.labels):
            given[k] = part.labels
        else:
            part.skipped[NO_CLASSES] += len(part.labels)
    stored = {parts[k].classes for k in given}
    names = stored.pop() if len(stored) == 1 else None
    if names is not None:
        for k, x in given.items():
            if x.max(initial=-1) >= len(names):
                raise DataError(
                    f'{where}: label {x.max()} in {parts[k].split} has no name, the classes are 0 to {len(names) - 1} '
                    '-> correct the labels or the names of the classes'
                )
        found = given
    else:
        found, names = _by_name_or_number({k: _texts(x, parts[k].classes) for k, x in given.items()})
    numbers = [class_labels(found[k], len(part.records), where) if k in found else None for k, part in enumerate(parts)]
    return numbers, names if found else None


def _texts(labels: np.ndarray, classes: tuple[str, ...] | None) -> np.ndarray:
    """Labels with stored names as names; all others as they are."""
    if classes is None:
        return labels
    return np.array([classes[label] if 0 <= label < len(classes) else '' for label in labels.tolist()], dtype=str)


def _by_name_or_number(
    given: dict[int, np.ndarray],
) -> tuple[dict[int, np.ndarray], tuple[str, ...] | None]:
    """Class numbers of names or numbers; texts are numbers if all of them are."""
    known = {k: labels != '' if labels.dtype.kind == 'U' else labels >= 0 for k, labels in given.items()}
    texts = [labels[known[k]] for k, labels in given.items() if labels.dtype.kind == 'U']
    if texts and all(_NUMBER.fullmatch(text) for labels in texts for text in np.unique(labels).tolist()):
        given = {
            k: np.where(known[k], labels, '-1').astype(np.int64) if labels.dtype.kind == 'U' else labels
            for k, labels in given.items()
        }
        known = {k: labels >= 0 for k, labels in given.items()}
    if not any(labels.dtype.kind == 'U' for labels in given.values()):
        found, names = classes_of({str(k): labels for k, labels in given.items()})
        return {k: found[str(k)] for k in given}, names
    found, names = classes_of({str(k): labels[known[k]].astype(str) for k, labels in given.items()})
    numbers = {}
    for k, labels in given.items():
        numbers[k] = np.full(len(labels), -1)
        numbers[k][known[k]] = found[str(k)]
    return numbers, names
