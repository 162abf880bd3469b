"""Reads PyTorch's files, `.pth` and `.pt`, without PyTorch."""

import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contrastive_jax.pretrained.pickles import Pickle
from contrastive_jax.pretrained.stand_ins import NumpyArray, PickleError, Storage, Tensor, kind
from contrastive_jax.pretrained.writers import EXTRA

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the format of torch before 1.6
MAX_TEXT = 2**20  # bytes of a text beside the weights
MAX_PICKLE = 2**27  # bytes of data.pkl, the part of a zip that is not numbers
# The errors of zipfile for a damaged archive.
ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, OSError, zlib.error)

ReadStorage = Callable[[Storage], np.ndarray]


class TorchFile(NamedTuple):
    """An opened file.

    Attributes:
      content: containers, `Tensor`s and what lies beside them.
      storage: reads the numbers of a storage; they are read only when this is called.
      inert: the names of the types of objects that were not created.
      metadata: the texts beside the weights, by name.
    """

    content: Any
    storage: ReadStorage
    inert: tuple[str, ...]
    metadata: Mapping[str, str] = {}

    def array(self, tensor: Any) -> np.ndarray:
        """Reads a tensor of `content` as an array, which is a view of its storage.

        Raises:
          PickleError: the leaf is not a tensor, or the file is damaged.
        """
        if isinstance(tensor, NumpyArray) and tensor.array is not None:
            return tensor.array
        if not isinstance(tensor, Tensor):
            raise PickleError(f'it contains {kind(tensor)} instead of a tensor')
        return tensor.view(self.storage(tensor.storage))


def read(path: Path) -> TorchFile:
    """Opens a file of torch.save, in the zip format or the one before it.

    Raises:
      PickleError: the pickle is hostile, or the file is damaged.
    """
    with path.open('rb') as file:
        if not path.stat().st_size:
            raise PickleError('it is empty')
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if content[:2] == b'PK':
        return _read_zip(path)
    if content[257:262] == b'ustar':
        raise PickleError('it is a tar file, as torch 0.1 wrote them -> save it again with a newer torch')
    return _read_legacy(content)


# ================================ zip, since torch 1.6 ================================


def _read_zip(path: Path) -> TorchFile:
    try:
        archive = zipfile.ZipFile(path)
        members = archive.infolist()
        names = {member.filename: member for member in members}
        _check_members(members, path.stat().st_size)
        roots = [name.removesuffix('data.pkl') for name in names if name.split('/')[1:] == ['data.pkl']]
        if len(roots) != 1:
            raise PickleError('it is a zip file without data.pkl, so torch.save did not write it')
        (root,) = roots
        if names.get(root + 'byteorder') and archive.read(root + 'byteorder') != b'little':
            raise PickleError('its numbers are big-endian -> save it on another machine')
        if names[root + 'data.pkl'].file_size > MAX_PICKLE:
            raise PickleError(f'its data.pkl has {names[root + "data.pkl"].file_size} bytes; {MAX_PICKLE} is the limit')
        pickle = Pickle()
        tree = pickle.read(io.BytesIO(archive.read(root + 'data.pkl')))
        metadata = _metadata(archive, members, f'{root}{EXTRA}/')
    except ZIP_ERRORS as error:
        raise PickleError(f'it is damaged: {error}') from error

    @cache  # many tensors may be views of one storage
    def storage(x: Storage) -> np.ndarray:
        member = names.get(f'{root}data/{x.key}')
        if member is None or member.file_size != x.size * x.dtype.itemsize:
            held = 'no bytes' if member is None else f'{member.file_size} bytes'
            raise PickleError(
                f'it is damaged: {held} for storage {x.key}, which has {x.size} numbers of dtype {x.dtype}'
            )
        try:
            return np.frombuffer(archive.read(member), x.dtype)
        except ZIP_ERRORS as error:
            raise PickleError(f'it is damaged: {error}') from error

    return TorchFile(tree, storage, tuple(pickle.inert), metadata)


def _metadata(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: str) -> dict[str, str]:
    """The texts in a folder of an archive, by name; longer files than `MAX_TEXT` are none of ours."""
    return {
        member.filename.removeprefix(folder): archive.read(member).decode(errors='replace')
        for member in members
        if member.filename.startswith(folder) and member.file_size <= MAX_TEXT
    }


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    """Refuses an archive that is not like those of torch.save, in particular one that expands to more than its size."""
    seen = set()
    for member in members:
        name = member.filename
        if name.startswith(('/', '\\')) or ':' in name or '..' in name.replace('\\', '/').split('/'):
            raise PickleError(f'its member {name[:80]!r} is a path outside of the archive')
        if name in seen:
            raise PickleError(f'its member {name[:80]!r} occurs twice')
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
            raise PickleError(f'its member {name[:80]!r} is compressed, which torch.save does not do')
        seen.add(name)
    if sum(member.file_size for member in members) > size:
        raise PickleError('the declared sizes of its members exceed the size of the file')


# ================================ before torch 1.6 ================================


def _read_legacy(content: mmap.mmap) -> TorchFile:
    """Reads five pickles (magic number, protocol, machine, content, order of the storages) and then the numbers."""
    if Pickle().read(content) != LEGACY_MAGIC:
        raise PickleError(
            'torch.save did not write it -> if it is a pickle of NumPy arrays by name, rename it to .pkl; a state dict '
            'of tensors is to be saved by torch.save'
        )
    if (protocol := Pickle().read(content)) != LEGACY_PROTOCOL:
        raise PickleError(f'it has protocol {protocol!r} of torch.save; only {LEGACY_PROTOCOL} is supported')
    machine = Pickle().read(content)
    if isinstance(machine, dict) and machine.get('little_endian') is False:
        raise PickleError('its numbers are big-endian -> save it on another machine')
    pickle = Pickle()
    tree, storages = pickle.read(content), pickle.storages
    keys = Pickle().read(content)
    if not isinstance(keys, list) or set(keys) != set(storages) or len(keys) != len(storages):
        raise PickleError('it is damaged: its storages do not match its tensors')

    places: dict[str, int] = {}
    at = content.tell()
    for key in keys:
        expected = storages[key]
        head = content[at : at + 8]
        end = at + 8 + expected.size * expected.dtype.itemsize
        if len(head) < 8 or struct.unpack('<q', head)[0] != expected.size or end > len(content):
            raise PickleError(f'it is damaged: storage {key} of {expected.size} numbers is incomplete')
        places[key], at = at + 8, end

    def storage(x: Storage) -> np.ndarray:
        return np.frombuffer(content, x.dtype, x.size, places[x.key])

    return TorchFile(tree, storage, tuple(pickle.inert))
