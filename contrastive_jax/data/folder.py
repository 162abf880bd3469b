"""Folders of image files, with labels from the names of class folders or without labels.

  path/train/<class>/*.jpg and path/val/<class>/*.jpg    splits, by the names in splits.py, in any case
  path/<class>/*.jpg                                     labeled; 10 % of each class are held out as 'test'
  path/*.jpg, path/train/*.jpg, path/<one folder>/*.jpg  unlabeled

Subfolders are splits if one of them has a name of the training split and either another one has the name of a split,
too, or no other one holds images. Otherwise all subfolders are classes, also one that is called train. A lone folder
that holds splits, as archives have it, is opened. Splits need not agree in the case of their class names. Class folders
are searched at every depth. Image files are known by their extension, in upper or lower case; hidden files and folders
are skipped. Links are followed, but no folder or file is counted twice because of a link. Files and classes are sorted
by the bytes of their names, so their order, and with it the labels, is the same on every machine.
"""

import collections
import hashlib
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contrastive_jax.data import bands
from contrastive_jax.data.encoded import EncodedSource, evenly, look_at
from contrastive_jax.data.files import other_source
from contrastive_jax.data.hold_out import without_splits
from contrastive_jax.data.sources import Source
from contrastive_jax.data.splits import resolve_split, split_kind
from contrastive_jax.data.tree import Folder, extensions
from contrastive_jax.errors import DataError

LOOSE, BESIDE = 'images outside of the class folders', 'images beside the splits'

# Names of a lone subfolder of an evaluation split that is no class.
GENERIC = ('images', 'image', 'imgs', 'img', 'data', 'all', 'unknown', 'unlabeled', 'unlabelled', 'jpegimages')
# Images in formats that are not decoded here.
CONVERTIBLE = (
    '.heic', '.heif', '.hif', '.jxl', '.jxr', '.cr2', '.cr3', '.nef', '.arw', '.dng', '.orf', '.rw2', '.raf', '.raw',
    '.dcm', '.dicom', '.nii', '.psd', '.exr', '.hdr', '.svg', '.tga', '.pcx', '.ico', '.fits', '.jif',
)  # fmt: skip
FINGERPRINT_FILES, FINGERPRINT_BYTES = 4096, 1024  # evenly spaced files, and the bytes of each part that is hashed


class FolderSource(EncodedSource):
    """Image files in a folder, decoded one by one.

    Args:
      root: the folder.
      files: [n] paths relative to `root`.
      labels: int32 [n], or None.
      classes: the names of the classes, indexed by label, or None.
      name: the name in logs and messages.
      image_size: height and width of the largest crop, in pixels; much larger JPEGs are decoded at a reduced size.
      place: the part of the folder that the files come from, for the summary of the data.
      skipped: number of skipped files by reason or extension.
      white: the largest value of gray images of more than 8 bits, see `images.decode`.
      remarks: see `Source`.
    """

    root: Path

    def __init__(
        self,
        root: Path,
        files: list[str],
        labels: np.ndarray | None,
        classes: tuple[str, ...] | None,
        *,
        name: str = 'folder',
        image_size: int = 224,
        place: str = '',
        skipped: dict[str, int] | None = None,
        white: float = 0,
        remarks: Sequence[str] = (),
    ):
        super().__init__(labels, classes, name=name, root=root, image_size=image_size)
        self.place, self.skipped, self.white, self.remarks = place, skipped or {}, white, remarks
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def encoded(self, i: int) -> str:
        return self.file_name(i)

    def image(self, i: int) -> np.ndarray:
        if self.channels in (1, 3):
            return super().image(i)
        return bands.decode(self.file_name(i), self.channels, self.dtype, self.white)

    def stored_size(self, i: int) -> tuple[int, int]:
        return super().stored_size(i) if self.channels in (1, 3) else Source.stored_size(self, i)

    def file_name(self, i: int) -> str:
        return os.path.join(self.root, self._files[i])

    def rows(self, chosen: np.ndarray, place: str = '') -> 'FolderSource':
        """A source of only these examples, int [m], in this order."""
        return FolderSource(
            self.root,
            [self._files[i] for i in chosen],
            None if self._labels is None else self._labels[chosen],
            self.classes,
            name=self.name,
            image_size=self._image_size,
            place=place or self.place,
            skipped=dict(self.skipped),
            white=self.white,
            remarks=self.remarks,
        )

    @property
    def fingerprint(self) -> str:
        """A hash of labels, names and parts of the files; it does not depend on where the folder lies."""
        digest = hashlib.sha256(b'' if self._labels is None else self._labels.tobytes())
        for file in self._files:
            digest.update(os.fsencode(file) + b'\0')
        for file in self._files[:: max(1, len(self._files) // FINGERPRINT_FILES)]:
            digest.update(_sample(os.path.join(self.root, file)))
        return digest.hexdigest()[:24]  # 16 digits in older versions, which took sizes alone


def load(
    path: Path, split: str = 'train', image_size: int = 224, name: str = '', value_range: float = 0, channels: int = 3
) -> FolderSource:
    """Opens one split of an image folder in any of the layouts at the top of this file.

    Args:
      path: the folder.
      split: 'train', the evaluation split by any of its names, or 'all': every image of the folder. If labeled data has
        no folder for evaluation, 10 % of each class with at least two images, at least one image, are held out from
        'train', evenly spaced among its sorted files.
      image_size: see `FolderSource`.
      name: the name in logs and messages; by default the name of the folder.
      value_range: the largest value of gray images of more than 8 bits; 0: derived from a sample of the training
        images, see `images.Look`.
      channels: 3 for RGB, 1 for gray, or the bands of TIFF files; 0: as they are, see `bands.kind_of`.

    Raises:
      UserError: `split` is not the name of a split.
      DataError: the folder does not exist or has no image.
      MissingSplitError: the folder has no images for evaluation.
    """
    source, train = _open(path, split, image_size, name or path.name)
    seen, remarks = look_at(train)
    sample = [train.file_name(i) for i in evenly(len(train))]
    kind = bands.kind_of(sample, source.name, channels, value_range, seen.white > 0)
    source.channels, source.dtype, others = kind
    source.white = value_range or seen.white
    source.remarks = remarks if source.channels in (1, 3) else others
    return source


def _open(path: Path, split: str, image_size: int, name: str) -> tuple[FolderSource, FolderSource]:
    """The split, and images that are representative of the training split."""
    found = Folder(path).inmost()
    prefix = '' if found.path == path else f'{os.path.relpath(found.path, path)}/'
    path, splits = found.path, found.splits()
    if not splits:
        everything = _source(found, None, name, image_size, '')
        return (everything if split == 'all' else _hold_out(everything, split)), everything
    below = {folder: Folder(path / folder) for folder in splits}
    train = next((folder for folder in splits if split_kind(folder) == 'train'), None)
    filled = [folder for folder in splits if folder == train or below[folder].count]
    if split == 'all':
        filled = [folder for folder in filled if below[folder].count] or filled
        parts = [_source(below[folder], None, name, image_size, f'{prefix}{folder}/') for folder in filled]
        _count_beside(parts[0], found, splits)
        return _together(path, parts, filled), parts[0]
    if train is None:
        if split_kind(split) in (None, 'train'):
            raise DataError(
                f"'{path}' has {', '.join(f'{folder}/' for folder in filled)}, and no split {split!r} -> set data.path "
                'to one of these folders, or add the folder train/'
            )
        chosen = resolve_split(split, filled, f"'{path}'")
        source = _source(below[chosen], None, name, image_size, f'{prefix}{chosen}/')
        return source, source
    source = _source(below[train], None, name, image_size, f'{prefix}{train}/')
    _count_beside(source, found, splits)
    if filled == [train]:
        return _hold_out(source, split), source
    chosen = resolve_split(split, filled, f"'{path}'", lambda folder: _is_labeled(below[folder], source))
    if chosen == train:
        return source, source
    known = source.classes if _is_labeled(below[chosen], source) else ()
    held = _source(below[chosen], known, name, image_size, f'{prefix}{chosen}/')
    for folder in filled:
        if folder not in (train, chosen):
            held.skipped[f'images in {folder}/'] = below[folder].count
    return held, source


def _count_beside(source: FolderSource, found: Folder, splits: list[str]) -> None:
    """Notes images of a folder that are in none of its splits."""
    count = len(found.loose.images) + sum(len(found.below[name].images) for name in found.classes if name not in splits)
    if count:
        source.skipped[BESIDE] = source.skipped.get(BESIDE, 0) + count


def _is_labeled(split: Folder, training: FolderSource) -> bool:
    """Whether the subfolders of an evaluation split are classes; a lone one that is called images is not."""
    if len(split.classes) != 1 or not training.classes:
        return len(split.classes) > 1
    (label,) = map(_same_name, split.classes)
    return label in map(_same_name, training.classes) or (label not in GENERIC and split_kind(label) is None)


def _same_name(label: str) -> str:
    """A form of the name of a class in which splits agree: file systems differ in case and in forms of accents."""
    return unicodedata.normalize('NFC', label).casefold().strip()


def _source(folder: Folder, known: Sequence[str] | None, name: str, image_size: int, place: str) -> FolderSource:
    """All images of a folder, labeled by class folder if more than one class folder has images.

    Args:
      folder: the folder.
      known: the names of the training classes, given for an evaluation split: its first labels; classes that they
        lack follow. (): the images have no labels. None: the class folders are the classes.
      name, image_size, place: see `FolderSource`.
    """
    present, skipped = folder.classes, folder.skipped
    if not folder.count:
        raise DataError(
            f"no images in '{folder.path}': it has {sum(skipped.values())} other files{_by_reason(skipped)}, none ends "
            f'in {extensions()}{other_source(skipped)} -> set data.path to the folder with the images{remedy(skipped)}'
        )
    files, labels, classes = list[str](), None, None
    if known == () or (len(present) < 2 and not known):  # with one folder all labels would be equal
        files = [*folder.loose.images, *(file for label in present for file in folder.below[label].images)]
        files.sort(key=os.fsencode)
    else:
        if folder.loose.images:
            skipped[LOOSE] += len(folder.loose.images)
        index = _numbers(present, known or ())
        classes = (*(known or ()), *(label for label in present if index[label] >= len(known or ())))
        ordered = sorted(present, key=index.__getitem__)
        files = [file for label in ordered for file in folder.below[label].images]
        labels = np.repeat([index[label] for label in ordered], [len(folder.below[x].images) for x in ordered])
    return FolderSource(
        folder.path,
        files,
        None if labels is None else labels.astype(np.int32),
        classes,
        name=name,
        image_size=image_size,
        place=place,
        skipped=dict(skipped),
    )


def _numbers(present: Sequence[str], known: Sequence[str]) -> dict[str, int]:
    """The label of each class folder: that of the known class with this name, also in another case; or a new one."""
    alike = collections.Counter(map(_same_name, known))
    by_form = {_same_name(label): i for i, label in enumerate(known) if alike[_same_name(label)] == 1}
    numbers, new = dict[str, int](), len(known)
    for label in present:
        found = known.index(label) if label in known else by_form.get(_same_name(label), new)
        numbers[label], new = found, new + (found == new)
    return numbers


def _together(path: Path, parts: list[FolderSource], splits: list[str]) -> FolderSource:
    """Several splits as one source, in the order of their folders."""
    classes = tuple(dict.fromkeys(label for part in parts for label in part.classes or ()))
    files, labels, skipped = list[str](), list[int](), collections.Counter[str]()
    for folder, part in zip(splits, parts, strict=True):
        files += [os.path.join(folder, os.path.relpath(part.file_name(i), part.root)) for i in range(len(part))]
        own = [-1] * len(part) if part.labels is None else [classes.index((part.classes or ())[x]) for x in part.labels]
        labels += own
        skipped.update(part.skipped)
    first = parts[0]
    return FolderSource(
        path,
        files,
        np.array(labels, np.int32) if classes else None,
        classes or None,
        name=first.name,
        image_size=first._image_size,
        place=', '.join(part.place for part in parts),
        skipped=dict(skipped),
    )


def _hold_out(everything: FolderSource, split: str) -> FolderSource:
    """The training or the held-out part of data that has no folder for evaluation."""
    where = f"'{everything.root}'"
    rows, part = without_splits(everything.labels, len(everything), split, where, 'a folder test/')
    return everything.rows(rows, f'{everything.place} {part}'.strip())


def _sample(file: str) -> bytes:
    """Size of a file and bytes from its start, middle and end: uncompressed images of one shape have the same size."""
    try:
        with open(file, 'rb') as opened:
            size = os.fstat(opened.fileno()).st_size
            parts = [f'{size} '.encode()]
            for start in (0, size // 2, max(0, size - FINGERPRINT_BYTES)):
                opened.seek(start)
                parts.append(opened.read(FINGERPRINT_BYTES))
            return b''.join(parts)
    except OSError:  # the file has vanished, or cannot be read; the loader reports it
        return b'-1 '


def remedy(skipped: dict[str, int] | collections.Counter[str]) -> str:
    """What to do about skipped photos in formats that Pillow cannot decode; '' if there are none."""
    convertible = [ending for ending in skipped if ending in CONVERTIBLE]
    return f'; convert {", ".join(convertible)} files to JPEG or PNG first' if convertible else ''


def _by_reason(skipped: collections.Counter[str]) -> str:
    return f' ({", ".join(f"{n} {reason}" for reason, n in skipped.most_common(5))})' if skipped else ''
