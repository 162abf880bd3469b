"""What the names in a pickle stand for: plain data for those of weights, an inert object for every other name.

Nothing is imported, and nothing that a pickle names is called. `pickle_names` lists the types that arrays of numbers
are made of; each is replaced by a function of ours. Any other name stands for an `Inert` object, whatever the pickle
does with it: optimizers, arguments, configs and callbacks that lie beside the weights.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from contrastive_jax.errors import UserError

MAX_AXES = 64  # of an array
MAX_LENGTH = 2**63  # of an axis
MAX_EXPANDED = 2**26  # elements of a tensor that repeats its stored numbers (stride 0)


class PickleError(UserError):
    """A pickle that is refused, because it is hostile or damaged."""


@dataclasses.dataclass(frozen=True)
class Storage:
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
class StorageType:
    """Stands for torch.FloatStorage and the other storage types.

    Attributes:
      dtype: the dtype of the numbers in such a storage.
    """

    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class TorchDtype:
    """Stands for torch.float32 and the other dtypes that numpy has as well.

    Attributes:
      dtype: the same dtype of numpy.
    """

    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Function:
    """Stands for a function or a class that a pickle names.

    Attributes:
      call: the function of ours that is called instead.
    """

    call: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A torch tensor whose numbers have not been read yet.

    Attributes:
      storage: the storage that it is a view of.
      dtype: the dtype of its numbers; that of the storage, unless the storage holds bytes.
      offset: the index of its first element in the storage.
      shape: the shape of the tensor.
      strides: for each axis, the distance between neighboring elements in the storage, in elements.
      negative: whether the numbers are the negated ones of the storage (torch's negative bit).
    """

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    negative: bool = False

    def view(self, numbers: np.ndarray) -> np.ndarray:
        """The tensor as an array, given the numbers of its whole storage."""
        numbers = numbers.view(f'u{self.dtype.itemsize}' if self.dtype.itemsize < 16 else self.dtype)
        bytes_apart = tuple(stride * numbers.itemsize for stride in self.strides)
        x = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, bytes_apart, writeable=False)
        x = x.view(self.dtype)  # numpy's strides are not for dtypes of ml_dtypes
        return -x if self.negative else x


class Inert(dict[Any, Any]):
    """Stands for an object of any other type. It is never created; what the pickle says about it is kept as entries.

    Attributes:
      name: the name of the type in the pickle, such as 'argparse.Namespace'.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def absorb(self, value: Any) -> None:
        """Keeps the entries of a dict, or of the dicts in a tuple (the state of an object with slots)."""
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, dict):
                self.update(part)


class Dtype:
    """Stands for numpy.dtype.

    Attributes:
      dtype: the dtype; None if its values are not numbers or texts.
    """

    def __init__(self, code: Any, *_: Any):
        try:
            self.dtype: np.dtype | None = np.dtype(str(code))
        except TypeError:
            self.dtype = None
        if self.dtype is not None and (self.dtype.hasobject or self.dtype.itemsize == 0):
            self.dtype = None

    def set_state(self, state: Any) -> None:
        order = state[1]
        if order not in ('<', '>', '=', '|'):
            raise PickleError(f'it contains an array of unknown byte order {order!r}')
        self.dtype = self.dtype and self.dtype.newbyteorder(order)


class NumpyArray:
    """Stands for numpy's `_reconstruct`: an array that is empty until its state is set.

    Attributes:
      array: the array; None if it holds objects, which are not read.
    """

    def __init__(self, *_: Any):
        self.array: np.ndarray | None = np.empty(0)

    def set_state(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.fill(raw, dtype, shape, 'F' if fortran else 'C')

    def fill(self, raw: Any, dtype: Dtype, shape: Any, order: str) -> None:
        raw = raw.encode('latin1') if isinstance(raw, str) else raw
        known = isinstance(dtype, Dtype) and dtype.dtype is not None and isinstance(raw, bytes | bytearray)
        self.array = np.frombuffer(raw, dtype.dtype).reshape(shape, order=order) if known else None  # type: ignore[call-overload]


def kind(value: Any) -> str:
    """The type of a value that is not an array of numbers, in words for messages."""
    if isinstance(value, Inert):
        return value.name
    return 'numpy array of objects' if isinstance(value, NumpyArray) else type(value).__name__


PLAIN = (str, int, float, bytes, Inert, type(None))


def key_of(key: Any) -> Any:
    """A key of a dict. Tuples may be nested so deeply that Python cannot hash them; only their place is kept."""
    plain = isinstance(key, PLAIN) or (isinstance(key, tuple) and all(isinstance(part, PLAIN) for part in key))
    return key if plain else Inert(kind(key))


def short(value: Any) -> str:
    """The beginning of a text."""
    text = str(value)
    return text if len(text) <= 80 else text[:80] + '...'


# ================================ numpy, dill, Haiku ================================


def array(reconstruct: Any, _: Any, state: Any, *__: Any) -> NumpyArray:
    """Stands for how dill and jax create arrays: one call with numpy's function, its arguments and the state."""
    if not isinstance(reconstruct, Function) or reconstruct.call is not NumpyArray:
        raise PickleError('it creates an array with another function than that of numpy')
    array = NumpyArray()
    array.set_state(state)
    return array


def from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> NumpyArray:
    """Stands for how numpy creates arrays in protocol 5."""
    array = NumpyArray()
    array.fill(raw, dtype, shape, 'F' if order == 'F' else 'C')
    return array


def scalar(dtype: Dtype, raw: Any = b'') -> Any:
    array = NumpyArray()
    array.fill(raw, dtype, -1, 'C')
    return Inert('numpy scalar') if array.array is None else array.array[0].item()


def named_tuple(_: Any, fields: Any, *__: Any) -> Function:
    """Stands for how dill defines a named tuple: its values become a dict by field name."""
    if not all(isinstance(field, str) for field in fields):
        raise PickleError('it defines a named tuple with a field whose name is not a text')
    return Function(lambda *values: dict(zip(fields, values, strict=True)))


def mapping(items: Any) -> Any:
    """Stands for Haiku's immutable mapping of parameters, which is created from a dict."""
    if not isinstance(items, dict):
        raise PickleError(f'it creates a mapping from a {type(items).__name__}')
    return items


def encode(text: str, codec: str = '') -> Any:
    """Stands for how pickles of protocol 2 write bytes."""
    if codec != 'latin1':
        raise PickleError(f'it uses the codec {codec!r}, which state dicts do not need')
    return text.encode('latin1')


# ================================ containers and objects ================================


def ordered_dict(items: Any = ()) -> dict[Any, Any]:
    return dict(items) if isinstance(items, dict) else {key_of(key): value for key, value in items}


def default_dict(*_: Any) -> dict[Any, Any]:
    return {}


def reconstructed(cls: Any, *rest: Any) -> Any:
    """Stands for how protocols 0 and 1 create objects: the class, its base, and the state of the base."""
    made = Inert(kind(cls))
    made.absorb(rest)
    return made


def attribute(owner: Any, *_: Any) -> Inert:
    """Stands for getattr, with which Python writes the members of an enum and bound methods."""
    return Inert(kind(owner))


# ================================ torch ================================


def torch_size(lengths: Any = ()) -> tuple[int, ...]:
    """Stands for torch.Size; bounded, because a few bytes could refer to the same long tuple many times."""
    if len(lengths) > MAX_AXES:
        raise PickleError(f'it contains a shape with {len(lengths)} axes')
    return tuple(lengths)


def tensor(
    storage: Any, offset: Any = 0, shape: Any = (), strides: Any = (), *rest: Any, dtype: np.dtype | None = None
) -> Any:
    """Stands for how torch creates a tensor; the sizes are checked before an array of that size is created."""
    if isinstance(storage, Inert):
        return Inert(f'a tensor of {storage.name}')
    shape, strides = torch_size(shape), torch_size(strides)
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(n) is int and 0 <= n < MAX_LENGTH for n in numbers):
        raise PickleError(f'it contains a tensor of shape {short(shape)} and strides {short(strides)}')
    dtype = storage.dtype if dtype is None else dtype
    size = storage.size * storage.dtype.itemsize // dtype.itemsize
    count, last = 1, offset
    for length, stride in zip(shape, strides, strict=True):
        count, last = count * length, last + (length - 1) * stride
    if count and (last >= size or count > max(size, MAX_EXPANDED)):
        raise PickleError(f'a tensor of shape {short(shape)} does not fit into its {size} stored numbers')
    metadata = rest[2] if len(rest) > 2 and isinstance(rest[2], dict) else {}
    if not count:
        return Tensor(storage, dtype, 0, shape, (0,) * len(shape))
    negative = metadata.get('neg') is True
    if negative and dtype.kind in 'bu':
        raise PickleError(f'it contains a tensor of dtype {dtype} with a negative sign')
    return Tensor(storage, dtype, offset, shape, strides, negative)


def tensor_v3(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    dtype: Any = None,
    metadata: Any = None,
    *_: Any,
) -> Any:
    """Stands for how torch creates tensors of newer dtypes: the storage holds bytes, and the dtype is an argument."""
    if not isinstance(dtype, TorchDtype):
        return Inert(f'a tensor of {kind(dtype)}')
    return tensor(storage, offset, shape, strides, grad, hooks, metadata, dtype=dtype.dtype)


def parameter(data: Any = None, *_: Any) -> Any:
    return data
