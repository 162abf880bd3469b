"""Parses pickles with an allow-list of types; no code in the file runs.

A pickle is a program that can import modules and call functions. This reader checks every instruction before the first
one is executed, and never imports what a pickle names: each name of the allow-list NAMES is replaced by one of the
stand-ins below, which hold plain data, and any other name is refused.
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

# Instructions that no state dict needs: the extension registry, old ways to create objects, and buffers that are
# allocated before they are read.
REFUSED = ('EXT1', 'EXT2', 'EXT4', 'INST', 'OBJ', 'BYTEARRAY8', 'NEXT_BUFFER', 'READONLY_BUFFER', 'PERSID')
MAX_AXES = 64  # of an array
PUTS = ('PUT', 'BINPUT', 'LONG_BINPUT')  # instructions that store a value under a number


class PickleError(UserError):
    """A pickle that is refused, because it names a type outside of the allow-list, or that is damaged."""


class Fixed:
    """A stand-in whose state a pickle must not set: that could undo a check, or change how the next file is read."""

    def __setstate__(self, _: Any) -> None:
        raise PickleError('the pickle sets the state of an object; weight files never do this, so the file is refused')


@dataclasses.dataclass(frozen=True)
class Storage(Fixed):
    """A block of numbers in a torch file; tensors are views of it.

    Attributes:
      key: the name of the block in the file.
      dtype: the dtype of the numbers.
      size: the number of elements.
    """

    key: str
    dtype: np.dtype
    size: int


@dataclasses.dataclass(frozen=True)
class StorageType(Fixed):
    """Stands for torch.FloatStorage and the other storage types.

    Attributes:
      dtype: the dtype of the numbers in such a storage.
    """

    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Function(Fixed):
    """Stands for a function that a pickle names.

    Attributes:
      call: the function of ours that is called instead.
    """

    call: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


@dataclasses.dataclass(frozen=True)
class Tensor(Fixed):
    """A torch tensor whose numbers have not been read yet.

    Attributes:
      storage: the storage that it is a view of.
      offset: the index of its first element in the storage.
      shape: the shape of the tensor.
      strides: for each axis, the distance between neighboring elements in the storage, in elements.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, numbers: np.ndarray) -> np.ndarray:
        """The tensor as an array, given the numbers of its whole storage."""
        bytes_apart = tuple(stride * numbers.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, bytes_apart, writeable=False)


class Inert:
    """Stands for an object whose content is not needed; everything that a pickle says about it is ignored."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class Dict(dict):
    """Stands for OrderedDict; attributes that torch and others set on it are ignored."""

    def __init__(self, items: list[Any] = []):  # noqa: B006
        super().__init__(items)
        items.clear()  # otherwise a few bytes that refer to the same list many times would copy it each time

    def __setstate__(self, _: Any) -> None:
        pass


class Record(dict):
    """Stands for a named tuple: a dict by field name. Each named tuple that a pickle defines is a subclass.

    Attributes:
      fields: the names of the fields.
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
            raise PickleError(f'it contains an array of dtype {code}; only arrays of numbers are supported')

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ('<', '>', '=', '|'):
            raise PickleError(f'it contains an array of unknown byte order {order!r}')
        self.dtype = self.dtype.newbyteorder(order)


class NumpyArray:
    """Stands for numpy's `_reconstruct`: an array that is empty until its state is set."""

    def __init__(self, *_: Any):
        self.array = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        raw = raw.encode('latin1') if isinstance(raw, str) else raw
        self.array = np.frombuffer(raw, dtype.dtype).reshape(shape, order='F' if fortran else 'C')


def _array(reconstruct: Any, _: Any, state: Any, *__: Any) -> NumpyArray:
    """Stands for how dill and jax create arrays: one call with numpy's function, its arguments and the state."""
    if reconstruct is not NumpyArray:
        raise PickleError('it creates an array with another function than that of numpy')
    array = NumpyArray()
    array.__setstate__(state)
    return array


def _named_tuple(_: Any, fields: Any, *__: Any) -> type[Record]:
    """Stands for how dill defines a named tuple."""
    if not all(isinstance(field, str) for field in fields):
        raise PickleError('it defines a named tuple with a field whose name is not a text')
    return type('Record', (Record,), {'fields': tuple(fields)})


def _mapping(items: Any) -> Any:
    """Stands for Haiku's immutable mapping of parameters, which is created from a dict."""
    if not isinstance(items, dict):
        raise PickleError(f'it creates a mapping from a {type(items).__name__}')
    return items


def _scalar(dtype: DType, raw: Any) -> Any:
    return np.frombuffer(raw.encode('latin1') if isinstance(raw, str) else raw, dtype.dtype)[0].item()


def _size(lengths: Any = ()) -> tuple[int, ...]:
    """Stands for torch.Size; bounded, because a few bytes could refer to the same long tuple many times."""
    if len(lengths) > MAX_AXES:
        raise PickleError(f'it contains a shape with {len(lengths)} axes')
    return tuple(lengths)


def _encode(text: str, codec: str) -> bytes:
    """Stands for how pickles of protocol 2 write bytes."""
    if codec != 'latin1':
        raise PickleError(f'it uses the codec {codec!r}, which state dicts do not need')
    return text.encode('latin1')


def _tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
    """Stands for how torch creates a tensor; the sizes are checked before an array of that size is created."""
    shape, strides = tuple(shape), tuple(strides)
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise PickleError(f'it contains a tensor of shape {_short(shape)} and strides {_short(strides)}')
    count, last = 1, offset
    for length, stride in zip(shape, strides, strict=True):
        count, last = count * length, last + (length - 1) * stride
    if count and (count > storage.size or last >= storage.size):
        raise PickleError(f'a tensor of shape {_short(shape)} does not fit into its {storage.size} stored numbers')
    return Tensor(storage, offset, shape, strides) if count else Tensor(storage, 0, shape, (0,) * len(shape))


def _parameter(data: Any, *_: Any) -> Any:
    return data


# torch's storage types, and the dtype of their numbers.
STORAGES: dict[str, StorageType] = {
    f'torch {kind}Storage': StorageType(np.dtype(dtype))
    for kind, dtype in {
        'Double': '<f8', 'Float': '<f4', 'Half': '<f2', 'BFloat16': ml_dtypes.bfloat16, 'Long': '<i8', 'Int': '<i4',
        'Short': '<i2', 'Char': 'i1', 'Byte': 'u1', 'Bool': '?',
    }.items()
}  # fmt: skip

# The allow-list: 'module name' -> its stand-in. Published checkpoints also contain optimizers, arguments and banks.
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
        """The storage of ('storage', type, key, device, size), followed in old files by the storage it is a view of."""
        kind, dtype, key, _, size, *view = pid
        if kind != 'storage' or not isinstance(dtype, StorageType) or type(size) is not int or size < 0:
            raise PickleError('it refers to an object outside of the pickle that is not a storage of numbers')
        if any(x is not None for x in view):
            raise PickleError('it contains views of storages, as of torch 0.3 -> save it again with a newer torch')
        storage = Storage(str(key), dtype.dtype, size)
        if self._storages.setdefault(storage.key, storage) != storage:
            raise PickleError(f'it is damaged: storage {storage.key} has two sizes')
        return storage


def read(file: Any, storages: dict[str, Storage] | None = None) -> Any:
    """Parses the next pickle of a file.

    Args:
      file: a binary file with the methods read, readline, seek and tell.
      storages: a dict that the storages of the tensors are added to, by their keys.

    Returns:
      Plain containers and values, with `Tensor`s and `NumpyArray`s.

    Raises:
      PickleError: the pickle names something outside of the allow-list, or it is damaged.
    """
    start = file.tell()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if opcode.name in ('GLOBAL', 'INST'):
                _stand_in(str(argument))
            if opcode.name in REFUSED:
                raise PickleError(f'its pickle contains {opcode.name}, which weight files do not need: it is refused')
            if opcode.name in PUTS and int(str(argument)) > count:  # the memory for so many values would be allocated
                raise PickleError('it is damaged: it stores more values than it contains')
        size = file.tell() - start
        file.seek(start)
        return _Reader(io.BytesIO(file.read(size)), {} if storages is None else storages).load()
    except PickleError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        reason = ' '.join(str(error).split())[:200]
        raise PickleError(f'it is damaged or not a pickle of weights: {type(error).__name__}: {reason}') from error


def _stand_in(name: str) -> Callable[..., Any]:
    if name not in NAMES:
        raise PickleError(
            f'its pickle imports {_short(name.replace(" ", "."))}, which weight files do not need: it is refused, and '
            'no code in it was run'
        )
    return NAMES[name]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:80] + '...'
