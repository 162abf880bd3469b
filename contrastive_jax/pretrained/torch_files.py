"""PyTorch's files, `.pth` and `.pt`, read without PyTorch."""

import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contrastive_jax.pretrained import pickles
from contrastive_jax.pretrained.pickles import PickleError, Storage, Tensor

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # torch before 1.6
MAX_PICKLE = 2**27  # bytes of the part of a zip that is not numbers
# What zipfile raises for a damaged archive.
ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, OSError, zlib.error)

ReadStorage = Callable[[Storage], np.ndarray]


class TorchFile(NamedTuple):
    """What a file holds.

    Attributes:
      content: containers and `Tensor`s.
      storage: reads the numbers of a storage, when they are wanted.
    """

    content: Any
    storage: ReadStorage

    def array(self, tensor: Any) -> np.ndarray:
        """The numbers of a tensor.

        Raises:
          PickleError: it is something else, or the file is damaged.
        """
        if not isinstance(tensor, Tensor):
            raise PickleError(f'it holds a {type(tensor).__name__} where a tensor should be')
        return np.array(tensor.view(self.storage(tensor.storage)))


def read(path: Path) -> TorchFile:
    """A file of torch.save, zip or older. Tensors are read when they are asked for.

    Raises:
      PickleError: it asks for what weights do not need, or is damaged.
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
            raise PickleError('it is a zip file without data.pkl, so not one of torch.save')
        (root,) = roots
        if names.get(root + 'byteorder') and archive.read(root + 'byteorder') != b'little':
            raise PickleError('its numbers are big-endian -> save it on another machine')
        if names[root + 'data.pkl'].file_size > MAX_PICKLE:
            raise PickleError(f'its data.pkl has {names[root + "data.pkl"].file_size} bytes, weights need far fewer')
        tree = pickles.read(io.BytesIO(archive.read(root + 'data.pkl')))
    except ZIP_ERRORS as error:
        raise PickleError(f'it is damaged: {error}') from error

    def storage(x: Storage) -> np.ndarray:
        member = names.get(f'{root}data/{x.key}')
        if member is None or member.file_size != x.size * x.dtype.itemsize:
            held = 'no bytes' if member is None else f'{member.file_size} bytes'
            raise PickleError(f'it is damaged: {held} of storage {x.key}, which has {x.size} numbers of {x.dtype}')
        try:
            return np.frombuffer(archive.read(member), x.dtype)
        except ZIP_ERRORS as error:
            raise PickleError(f'it is damaged: {error}') from error

    return TorchFile(tree, storage)


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    """Nothing is unpacked to disk, and nothing that is read may be larger than the file that it comes from."""
    seen = set()
    for member in members:
        name = member.filename
        if name.startswith(('/', '\\')) or ':' in name or '..' in name.replace('\\', '/').split('/'):
            raise PickleError(f'its member {name[:80]!r} points outside of it')
        if name in seen:
            raise PickleError(f'its member {name[:80]!r} is there twice')
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
            raise PickleError(f'its member {name[:80]!r} is compressed, which torch.save does not do')
        seen.add(name)
    if sum(member.file_size for member in members) > size:
        raise PickleError('its members say that they are larger than the whole file')


# ================================ before torch 1.6 ================================


def _read_legacy(content: mmap.mmap) -> TorchFile:
    """Five pickles (magic number, protocol, about the machine, content, order of the storages), then the numbers."""
    if pickles.read(content) != LEGACY_MAGIC:
        raise PickleError('it is not a file of torch.save')
    if (protocol := pickles.read(content)) != LEGACY_PROTOCOL:
        raise PickleError(f'it has protocol {protocol!r} of torch.save, {LEGACY_PROTOCOL} is read')
    machine = pickles.read(content)
    if isinstance(machine, dict) and machine.get('little_endian') is False:
        raise PickleError('its numbers are big-endian -> save it on another machine')
    storages: dict[str, Storage] = {}
    tree = pickles.read(content, storages)
    keys = pickles.read(content)
    if not isinstance(keys, list) or set(keys) != set(storages) or len(keys) != len(storages):
        raise PickleError('it is damaged: its storages are not those of its tensors')

    places: dict[str, int] = {}
    at = content.tell()
    for key in keys:
        expected = storages[key]
        head = content[at : at + 8]
        end = at + 8 + expected.size * expected.dtype.itemsize
        if len(head) < 8 or struct.unpack('<q', head)[0] != expected.size or end > len(content):
            raise PickleError(f'it is damaged: storage {key} of {expected.size} numbers is not whole')
        places[key], at = at + 8, end

    def storage(x: Storage) -> np.ndarray:
        return np.frombuffer(content, x.dtype, x.size, places[x.key])

    return TorchFile(tree, storage)
