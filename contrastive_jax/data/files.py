"""The files that `data.path` names, for data that consists of files of records, and the split that each belongs to.

  path/to/a.tar                           one file
  path/to/shard-{000..146}.tar            a sequence; each of its files must exist
  path/to/train-*.tar, path/**/*.tar      a pattern
  path/to/folder                          all files with the ending of the format below the folder, at any depth

The split of a file is the first word in its name that is the name of a split, such as train in
`flowers-train-0001.tar`; without one, the same in the name of its folder, or of the next folder above. Beside files
with such words, a file `unlabeled-00000-of-00005.parquet` is of the split unlabeled. Data that has one split only, and
is not given as a folder, is data without splits. Files are sorted by the bytes of their paths.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from contrastive_jax.data import images
from contrastive_jax.data.splits import split_kind
from contrastive_jax.data.tree import all_files
from contrastive_jax.errors import DataError
from contrastive_jax.rules import did_you_mean

BESIDE = 'files beside the splits'
# Endings -> data.source.
KINDS = {
    '.tar': 'webdataset', '.parquet': 'parquet', '.arrow': 'huggingface', '.array_record': 'array_record',
    '.npz': 'npz', **dict.fromkeys(images.EXTENSIONS, 'folder'),
}  # fmt: skip
_BRACES = re.compile(r'\{([^{}]*)\}')
_RANGE = re.compile(r'(\d+)\.\.(\d+)')
_WORDS = re.compile(r'[^\W\d_]+')
_SHARD = re.compile(r'(\w+)-\d+-of-\d+\b')


def find_files(
    path: Path, ending: re.Pattern[str], what: str, refused: Mapping[str, str]
) -> tuple[Path, list[str], Counter[str]]:
    """The files of a format.

    Args:
      path: `data.path`, absolute, in a form at the top of this file.
      ending: the end of their names, in lower case. A single file may have any name.
      what: the files, for messages: 'tar files'.
      refused: endings of files that would be left out without it being meant -> the remedy; one of them is an error.

    Returns:
      The folder that all of them lie in; their paths relative to it, sorted; and the number of other files, by ending.

    Raises:
      DataError: a file is missing or refused, or there is none.
    """
    others = Counter[str]()
    if path.is_dir():
        root = path
        names, others = all_files(path)
    else:
        found = [str(path)] if path.exists() else [f for name in _expanded(str(path)) for f in _matching(name, path)]
        root = Path(os.path.commonpath([os.path.dirname(file) for file in found]))
        names = sorted({os.path.relpath(file, root) for file in found}, key=os.fsencode)
    for name in names:
        for end, remedy in refused.items():
            if name.lower().endswith(end):
                raise DataError(f"'{root / name}' has no random access -> {remedy}")
    files = names if path.is_file() else [name for name in names if ending.search(name.lower())]
    chosen = set(files)
    others.update(ending_of(name) for name in names if name not in chosen)
    if not files:
        few = ', '.join(f'{count} {name}' for name, count in others.most_common(5)) or 'nothing'
        raise DataError(f"no {what} in '{path}': it has {few}{other_source(others)} -> set data.path to {what}")
    return root, files, others


def by_split(path: Path, files: Sequence[str]) -> tuple[dict[str, list[str]], Counter[str]]:
    """The files of each split.

    Args:
      path: `data.path`.
      files: paths relative to the folder of the data, as `find_files` returns them.

    Returns:
      Files by the name of the split in lower case, 'train' for data without splits; and the number of files that are
      left out, by reason.

    Raises:
      DataError: a folder holds several data sets that have a split of the same name.
    """
    splits, places, beside = dict[str, list[str]](), dict[str, set[str]](), list[str]()
    for file in files:
        split, place = _split(file)
        if split:
            splits.setdefault(split, []).append(file)
            places.setdefault(split, set()).add(place)
        else:
            beside.append(file)
    if not splits or (len(splits) == 1 and not beside and not path.is_dir()):
        return {'train': list(files)}, Counter()
    for split, folders in places.items():
        if len(folders) > 1 and path.is_dir():
            some = ', '.join(sorted(folders)[:3])
            raise DataError(
                f"'{path}' has a split {split} in {len(folders)} folders ({some}), which may hold the same images -> "
                f"set data.path to one of them, or, for all together, to a pattern such as '{path}/**/*{split}*'"
            )
    left = Counter[str]()
    for file in beside:
        match = _SHARD.match(os.path.basename(file))
        if match:
            splits.setdefault(match[1].lower(), []).append(file)
        else:
            left[BESIDE] += 1
    return splits, left


def ending_of(name: str) -> str:
    """'.txt' of a.TXT, for counts of files that are left out."""
    return os.path.splitext(name)[1].lower() or 'files without extension'


def other_source(endings: Iterable[str]) -> str:
    """What is said where data of one kind is missing and files of another kind are there; '' if there are none."""
    kinds = [kind for ending in endings for known, kind in KINDS.items() if ending.split('-')[0] == known]
    return f'; data.source {kinds[0]!r} reads these' if kinds else ''


def _split(file: str) -> tuple[str, str]:
    """The split in the path of a file, and the folder of the file or folder that has this name; ('', '') without."""
    names = file.split(os.sep)
    for k in reversed(range(len(names))):
        for word in _WORDS.findall(names[k]):
            if split_kind(word):
                return word.lower(), os.sep.join(names[:k])
    return '', ''


def _expanded(text: str) -> list[str]:
    """Names with braces written out: 'a-{08..10}' -> a-08, a-09, a-10; 'a-{x,y}' -> a-x, a-y."""
    match = _BRACES.search(text)
    if not match:
        return [text]
    numbers = _RANGE.fullmatch(match[1])
    if numbers:
        first, last = numbers[1], numbers[2]
        inner = [f'{i:0{len(first)}}' for i in range(int(first), int(last) + 1)]
    else:
        inner = match[1].split(',')
    return [name for x in inner for name in _expanded(text[: match.start()] + x + text[match.end() :])]


def _matching(name: str, path: Path) -> list[str]:
    """The file of this name, or those of a pattern."""
    if os.path.isfile(name):
        return [name]
    found = [file for file in glob.glob(name, recursive=True) if os.path.isfile(file)] if glob.has_magic(name) else []
    if not found:
        folder, wanted = os.path.split(name)
        near = did_you_mean(wanted, os.listdir(folder)) if os.path.isdir(folder) else ''
        given = '' if name == str(path) else f" of data.path '{path}'"
        raise DataError(f"'{name}'{given} does not exist{near} -> correct data.path, or add the file")
    return found
