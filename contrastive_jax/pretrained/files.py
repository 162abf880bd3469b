"""Opens files of arrays by name: PyTorch, safetensors, `.npz`, pickles and TensorFlow. No code in them runs.

The kind of a file is detected from its content.
"""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import safetensors_files, tensorflow_files, torch_files
from contrastive_jax.pretrained.pickles import Pickle
from contrastive_jax.pretrained.stand_ins import NumpyArray, kind

MAX_EXPANSION = 20  # the largest factor by which a compressed file may expand; weights compress far less
SMALL = 2**26  # bytes to which any file may expand
# Floating-point dtypes that numpy itself does not know; all have a float32 of the same value.
NARROW = tuple(
    np.dtype(dtype)
    for dtype in (
        ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fnuz,
        ml_dtypes.float8_e5m2fnuz,
    )
)  # fmt: skip
# How files begin that people give by mistake, in lower case, and what they are.
OTHERS = {
    b'version https://git-lfs': 'a pointer of Git LFS, and not the file itself -> fetch it with git lfs pull',
    b'<!doctype': 'a web page, so the download went wrong -> download it again',
    b'<html': 'a web page, so the download went wrong -> download it again',
    b'\x1f\x8b': 'compressed by gzip -> unpack it first',
    b'bzh': 'compressed by bzip2 -> unpack it first',
    b'\xfd7zxz': 'compressed by xz -> unpack it first',
    b'\x28\xb5\x2f\xfd': 'compressed by zstd -> unpack it first',
    b'\x89hdf': 'an HDF5 file, as Keras writes them -> read it with h5py, and save its arrays by name with np.savez',
    b'gguf': 'a GGUF file -> give the weights as safetensors or PyTorch files',
}
LEGACY_TORCH = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # the end of the pickle with which files of torch before 1.6 begin


class Source(NamedTuple):
    """An opened file, whose arrays have not been read yet.

    Attributes:
      content: nested dicts by name; the leaves are what `read` takes.
      read: reads the array of one leaf.
      metadata: the metadata of a safetensors file, or the texts beside the weights in one of torch; otherwise {}.
      inert: the names of the types of objects in a pickle that are not created, because weights do not need them.
    """

    content: Any
    read: Callable[[Any], np.ndarray]
    metadata: Mapping[str, str] = {}
    inert: tuple[str, ...] = ()

    def array(self, leaf: Any) -> np.ndarray:
        """Reads the array of a leaf of `content`.

        Raises:
          UserError: the array is damaged, or its dtype is not numeric.
        """
        x = self.read(leaf)
        if x.dtype.kind not in 'fiub' and x.dtype not in NARROW:
            raise UserError(f'it contains an array of dtype {x.dtype} instead of real numbers')
        return x


def read(path: Path) -> Source:
    """Opens a file, or a checkpoint of TensorFlow.

    Raises:
      UserError: the file is missing, damaged, of an unknown kind, or contains more than arrays and plain data.
    """
    try:
        if checkpoint := tensorflow_files.find(path):
            names, array = tensorflow_files.read(checkpoint)
            return Source({name: name for name in names}, array)
        with path.open('rb') as file:
            head = file.read(512)
        if head.startswith(b'\x93NUMPY'):
            raise UserError('it is a single array without a name -> give a file of arrays by name')
        if head.startswith(b'PK') and _holds_arrays(path):
            return _npz(path)
        if head[8:9] == b'{':
            return Source(*safetensors_files.read(path))
        if path.suffix in ('.pkl', '.pickle') and not head.startswith(b'PK') and LEGACY_TORCH not in head[:16]:
            pickle = Pickle()
            content = pickle.read(io.BytesIO(path.read_bytes()))
            return Source(content, _numpy, inert=tuple(pickle.inert))
        if head.startswith((b'PK', b'\x80')) or head[257:262] == b'ustar':
            opened = torch_files.read(path)
            return Source(opened.content, opened.array, opened.metadata, opened.inert)
        known = next((what for start, what in OTHERS.items() if head.lower().startswith(start)), '')
        if path.suffix == '.msgpack':
            known = (
                'a MessagePack file -> restore it with flax.serialization.msgpack_restore, and save it with np.savez'
            )
        text = head.isascii() and b'\0' not in head
        kind = known or ('empty' if not head else 'text' if text else 'of an unknown kind')
        forms = 'a file of PyTorch, safetensors, .npz, .pkl or a checkpoint of TensorFlow'
        raise UserError(f'it is {kind}' if '->' in kind else f'it is {kind} -> give {forms}')
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror or error} -> give the file of weights') from error
    except UserError as error:
        raise UserError(f'{path} cannot be read: {error}') from error


def _numpy(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, NumpyArray) or leaf.array is None:
        raise UserError(f'it contains {kind(leaf)} instead of an array')
    return leaf.array


# ================================ npz ================================


def _holds_arrays(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith('.npy') for name in archive.namelist())
    except torch_files.ZIP_ERRORS:
        return False


def _npz(path: Path) -> Source:
    """Opens an .npz file. Each header is compared with the data: numpy would allocate whatever the header claims."""
    archive = zipfile.ZipFile(path)
    total, most = sum(member.file_size for member in archive.infolist()), path.stat().st_size * MAX_EXPANSION
    if total > max(SMALL, most):
        raise UserError(f'it would expand to {total} bytes, which is implausible for weights')

    def array(name: str) -> np.ndarray:
        try:
            with archive.open(name) as file:
                version = np.lib.format.read_magic(file)
                read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, fortran, dtype = read_header[version](file)
                if dtype.hasobject:
                    raise UserError(f'{name} contains Python objects, which may be code, so the file is refused')
                numbers = file.read()
            return np.frombuffer(numbers, dtype).reshape(shape, order='F' if fortran else 'C')
        except (ValueError, KeyError, *torch_files.ZIP_ERRORS) as error:
            raise UserError(f'{name} is damaged: {error}') from error

    return Source({name.removesuffix('.npy'): name for name in archive.namelist()}, array)
