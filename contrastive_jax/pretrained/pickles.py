"""Reads pickles without running what they ask for: only listed names exist, and each stands for something inert.

A pickle is a program. This reader looks at every instruction before the first is carried out, never imports a module
that a pickle names, and gives it plain containers and the stand-ins below, whatever the names meant elsewhere.
"""

import dataclasses
import io
import pickle
import pickletools
from collections.abc import Callable
from typing import IO, Any

import ml_dtypes
import numpy as np

from contrastive_jax.errors import UserError

# Instructions that no state dict needs: the registry of extensions, old ways to make objects, and buffers that are
# allocated before they are read.
REFUSED = ('EXT1', 'EXT2', 'EXT4', 'INST', 'OBJ', 'BYTEARRAY8', 'NEXT_BUFFER', 'READONLY_BUFFER', 'PERSID')
MAX_AXES = 64  # of an array
PUTS = ('PUT', 'BINPUT', 'LONG_BINPUT')


class PickleError(UserError):
    """A pickle that is not read: it asks for a name that is not listed, or is damaged."""


class Fixed:
    """What a pickle may not change once it is made: it could undo a check, or change the next file's reading."""

    def __setstate__(self, _: Any) -> None:
        raise PickleError('it changes what only it may name, as no weights do')


@dataclasses.dataclass(frozen=True)
class Storage(Fixed):
    """A run of numbers of a torch file that a tensor is a view of.

    Attributes:
      key: where the file has it.
      dtype: of the numbers.
      size: how many.
    """

    key: str
    dtype: np.dtype
    size: int


@dataclasses.dataclass(frozen=True)
class StorageType(Fixed):
    """Stands for torch.FloatStorage and its like.

    Attributes:
      dtype: of what is stored.
    """

    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Function(Fixed):
    """Stands for a function, and is called in its place.

    Attributes:
      call: what is done.
    """

    call: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


@dataclasses.dataclass(frozen=True)
class Tensor(Fixed):
    """A torch tensor whose numbers have not been read.

    Attributes:
      storage: what it is a view of.
      offset: its first element there.
      shape: of the tensor.
      strides: elements from one to the next, for each axis.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, numbers: np.ndarray) -> np.ndarray:
        """The tensor, as a part of the numbers of its whole storage."""
        bytes_apart = tuple(stride * numbers.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, bytes_apart, writeable=False)


class Inert:
    """Stands for an object of which a pickle says more than anyone here wants to know."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class Dict(dict):
    """Stands for OrderedDict, but for the attributes that torch and others hang on theirs."""

    def __init__(self, items: list[Any] = []):  # noqa: B006
        super().__init__(items)
        items.clear()  # or few bytes, which name the same items again and again, would copy many

    def __setstate__(self, _: Any) -> None:
        pass


class Record(dict):
    """Stands for a named tuple: a dict by its fields. Each kind that a pickle describes is a class below this one.

    Attributes:
      fields: of the class.
    """

    fields: tuple[str, ...] = ()

    def __new__(cls, *values: Any) -> 'Record':
        record = super().__new__(cls)
        record.update(zip(cls.fields, values, strict=True))
        return record

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class DType:
    """Stands for numpy.dtype."""

    def __init__(self, code: Any, *_: Any):
        self.dtype = np.dtype(str(code))
        if self.dtype.hasobject or self.dtype.itemsize == 0:
            raise PickleError(f'it holds an array of {code} -> only arrays of numbers are read')

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ('<', '>', '=', '|'):
            raise PickleError(f'it holds an array of byte order {order!r}')
        self.dtype = self.dtype.newbyteorder(order)


class NumpyArray:
    """Stands for numpy's `_reconstruct`: an array that is empty until its state comes."""

    def __init__(self, *_: Any):
        self.array = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        raw = raw.encode('latin1') if isinstance(raw, str) else raw
        self.array = np.frombuffer(raw, dtype.dtype).reshape(shape, order='F' if fortran else 'C')


def _array(reconstruct: Any, _: Any, state: Any, *__: Any) -> NumpyArray:
    """dill's arrays, and jax's: numpy's function, its arguments and the state, all at once."""
    if reconstruct is not NumpyArray:
        raise PickleError('it makes an array of something that is none')
    array = NumpyArray()
    array.__setstate__(state)
    return array


def _named_tuple(_: Any, fields: Any, *__: Any) -> type[Record]:
    """How dill spells a class of named tuples."""
    if not all(isinstance(field, str) for field in fields):
        raise PickleError('it describes a named tuple whose fields have no names')
    return type('Record', (Record,), {'fields': tuple(fields)})


def _mapping(items: Any) -> Any:
    """Haiku's parameters: an immutable mapping, made of a dict."""
    if not isinstance(items, dict):
        raise PickleError(f'it makes a mapping of a {type(items).__name__}')
    return items


def _scalar(dtype: DType, raw: Any) -> Any:
    return np.frombuffer(raw.encode('latin1') if isinstance(raw, str) else raw, dtype.dtype)[0].item()


def _size(lengths: Any = ()) -> tuple[int, ...]:
    """torch.Size; without a bound, few bytes would copy many."""
    if len(lengths) > MAX_AXES:
        raise PickleError(f'it holds a shape of {len(lengths)} axes')
    return tuple(lengths)


def _encode(text: str, codec: str) -> bytes:
    """How pickles of protocol 2 spell bytes."""
    if codec != 'latin1':
        raise PickleError(f'it asks for the codec {codec!r}, which state dicts do not use')
    return text.encode('latin1')


def _tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
    """A view of a storage, checked before anything of that size is made."""
    shape, strides = tuple(shape), tuple(strides)
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise PickleError(f'it holds a tensor of shape {_short(shape)} and strides {_short(strides)}')
    count, last = 1, offset
    for length, stride in zip(shape, strides, strict=True):
        count, last = count * length, last + (length - 1) * stride
    if count and (count > storage.size or last >= storage.size):
        raise PickleError(f'a tensor of shape {_short(shape)} does not fit into its {storage.size} stored numbers')
    return Tensor(storage, offset, shape, strides) if count else Tensor(storage, 0, shape, (0,) * len(shape))


def _parameter(data: Any, *_: Any) -> Any:
    return data


# torch's storages, and the dtype of what they hold.
STORAGES: dict[str, StorageType] = {
    f'torch {kind}Storage': StorageType(np.dtype(dtype))
    for kind, dtype in {
        'Double': '<f8', 'Float': '<f4', 'Half': '<f2', 'BFloat16': ml_dtypes.bfloat16, 'Long': '<i8', 'Int': '<i4',
        'Short': '<i2', 'Char': 'i1', 'Byte': 'u1', 'Bool': '?',
    }.items()
}  # fmt: skip

# name -> what it stands for here. Optimizers, arguments and banks of published checkpoints lie beside the weights.
NAMES: dict[str, Any] = {
    'collections OrderedDict': Dict,
    'torch._utils _rebuild_tensor_v2': Function(_tensor),
    'torch._utils _rebuild_parameter': Function(_parameter),
    'torch.nn.parameter Parameter': Function(_parameter),
    'torch Size': Function(_size),
    'torch device': Inert,
    **STORAGES,
    **{name.replace('torch ', 'torch.cuda '): dtype for name, dtype in STORAGES.items()},
    'argparse Namespace': Inert,  # DINO, CMC
    'lib.NCEAverage NCEAverage': Inert,  # InstDis
    'lib.LinearAverage LinearAverage': Inert,
    'lib.alias_multinomial AliasMethod': Inert,
    'torch.nn.backends.thnn _get_thnn_function_backend': Inert,
    # BYOL: Haiku's parameters, written with dill.
    'dill._dill _create_namedtuple': Function(_named_tuple),
    'dill._dill _create_array': Function(_array),
    **{f'haiku._src.data_structures {name}': Function(_mapping) for name in ('frozendict', 'FlatMapping', 'FlatMap')},
    **{
        name: Function(_array)
        for name in ('jax._src.array _reconstruct_array', 'jax._src.device_array reconstruct_device_array')
    },
    '_codecs encode': Function(_encode),
    'numpy dtype': DType,
    'numpy ndarray': Inert,
    **{
        f'numpy.{core}.multiarray {name}': stand_in
        for core in ('core', '_core')
        for name, stand_in in {'_reconstruct': NumpyArray, 'scalar': Function(_scalar)}.items()
    },
}


class _Reader(pickle.Unpickler):
    def __init__(self, file: IO[bytes], storages: dict[str, Storage]):
        super().__init__(file, encoding='latin1')
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        return _stand_in(f'{module} {name}')

    def persistent_load(self, pid: Any) -> Storage:
        """('storage', its type, key, device, size), and in old files whose view it is."""
        kind, dtype, key, _, size, *view = pid
        if kind != 'storage' or not isinstance(dtype, StorageType) or type(size) is not int or size < 0:
            raise PickleError('it refers to something that is no storage of numbers')
        if any(x is not None for x in view):
            raise PickleError('it holds views of storages, as torch 0.3 wrote them -> save it again with a newer torch')
        storage = Storage(str(key), dtype.dtype, size)
        if self._storages.setdefault(storage.key, storage) != storage:
            raise PickleError(f'it is damaged: storage {storage.key} has two sizes')
        return storage


def read(file: Any, storages: dict[str, Storage] | None = None) -> Any:
    """The next pickle of a file, in plain containers with `Tensor`s; numpy arrays are `NumpyArray`s.

    Args:
      file: with read, readline, seek and tell.
      storages: is filled with the storages of its tensors, by their keys.

    Raises:
      PickleError: it asks for a name that is not listed, before anything is made; or it is damaged.
    """
    start = file.tell()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if opcode.name in ('GLOBAL', 'INST'):
                _stand_in(str(argument))
            if opcode.name in REFUSED:
                raise PickleError(f'its instruction {opcode.name} is not one that weights need: it is not carried out')
            if opcode.name in PUTS and int(str(argument)) > count:  # as much memory would be taken
                raise PickleError('it is damaged: it remembers more than it holds')
        size = file.tell() - start
        file.seek(start)
        return _Reader(io.BytesIO(file.read(size)), {} if storages is None else storages).load()
    except PickleError:
        raise
    except Exception as error:  # whatever a damaged pickle leads to
        reason = ' '.join(str(error).split())[:200]
        raise PickleError(f'it is damaged or no pickle of weights: {type(error).__name__}: {reason}') from error


def _stand_in(name: str) -> Callable[..., Any]:
    if name not in NAMES:
        raise PickleError(f'it asks for {_short(name.replace(" ", "."))}, which no weights need: nothing of it was run')
    return NAMES[name]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:80] + '...'
