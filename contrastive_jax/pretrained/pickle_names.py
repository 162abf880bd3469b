"""The names in a pickle: those of arrays and what stands for them, and those of code, for which a file is refused."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from contrastive_jax.pretrained import stand_ins
from contrastive_jax.pretrained.stand_ins import (
    Function,
    Inert,
    NumpyArray,
    PickleError,
    StorageType,
    TorchDtype,
    kind,
    short,
)


def _typed(function: Any, cls: Any, args: Any = (), *_: Any) -> Any:
    """Stands for how torch creates a tensor with attributes, or of a subclass, whose meaning is not known."""
    if cls in (NAMES['torch Tensor'], NAMES['torch.nn.parameter Parameter']) and isinstance(function, Function):
        return function.call(*args)
    return Inert(kind(cls))


# torch's storage types, and the dtype of their numbers. Quantized numbers are read as what they are stored as, but
# their tensors are Inert.
STORAGES: dict[str, StorageType] = {
    f'torch {kind}Storage': StorageType(np.dtype(dtype))
    for kind, dtype in {
        'Double': '<f8', 'Float': '<f4', 'Half': '<f2', 'BFloat16': ml_dtypes.bfloat16, 'Long': '<i8', 'Int': '<i4',
        'Short': '<i2', 'Char': 'i1', 'Byte': 'u1', 'Bool': '?',
    }.items()
}  # fmt: skip
OTHER_STORAGES = {
    name: StorageType(np.dtype(dtype))
    for name, dtype in {
        'torch ComplexDoubleStorage': '<c16', 'torch ComplexFloatStorage': '<c8', 'torch QInt8Storage': 'i1',
        'torch QUInt8Storage': 'u1', 'torch QInt32Storage': '<i4', 'torch QUInt4x2Storage': 'u1',
        'torch QUInt2x4Storage': 'u1', 'torch.storage UntypedStorage': 'u1', 'torch.storage _UntypedStorage': 'u1',
        'torch UntypedStorage': 'u1',
    }.items()
}  # fmt: skip

# torch's dtypes that numpy or ml_dtypes has.
TORCH_DTYPES: dict[str, TorchDtype] = {
    f'torch {name}': TorchDtype(np.dtype(dtype))
    for name, dtype in {
        'float64': '<f8', 'float32': '<f4', 'float16': '<f2', 'bfloat16': ml_dtypes.bfloat16, 'int64': '<i8',
        'int32': '<i4', 'int16': '<i2', 'int8': 'i1', 'uint64': '<u8', 'uint32': '<u4', 'uint16': '<u2', 'uint8': 'u1',
        'bool': '?', 'float8_e4m3fn': ml_dtypes.float8_e4m3fn, 'float8_e5m2': ml_dtypes.float8_e5m2,
        'float8_e4m3fnuz': ml_dtypes.float8_e4m3fnuz, 'float8_e5m2fnuz': ml_dtypes.float8_e5m2fnuz,
    }.items()
}  # fmt: skip

# Other kinds of tensors, which are refused if they are weights; the words are for the message.
OTHER_TENSORS: dict[str, Function] = {
    f'torch._utils {name}': Function(partial(lambda words, *_: Inert(words), words))
    for name, words in {
        '_rebuild_sparse_tensor': 'a sparse tensor (save it with .to_dense())',
        '_rebuild_sparse_csr_tensor': 'a sparse tensor (save it with .to_dense())',
        '_rebuild_qtensor': 'a quantized tensor (save it with .dequantize())',
        '_rebuild_meta_tensor_no_storage': 'a tensor without numbers (device meta)',
        '_rebuild_nested_tensor': 'a nested tensor',
    }.items()
}

NUMPY_FUNCTIONS: dict[str, Callable[..., Any]] = {
    'multiarray _reconstruct': NumpyArray,
    'multiarray scalar': stand_ins.scalar,
    'numeric _frombuffer': stand_ins.from_buffer,
}

# 'module name' -> its stand-in. BYOL's files are Haiku's parameters, written with dill.
NAMES: Mapping[str, Any] = {
    'collections OrderedDict': Function(stand_ins.ordered_dict),
    'collections defaultdict': Function(stand_ins.default_dict),
    'copy_reg _reconstructor': Function(stand_ins.reconstructed),
    'copyreg _reconstructor': Function(stand_ins.reconstructed),
    'copyreg __newobj__': Function(stand_ins.reconstructed),
    'copyreg __newobj_ex__': Function(stand_ins.reconstructed),
    'builtins getattr': Function(stand_ins.attribute),
    '__builtin__ getattr': Function(stand_ins.attribute),
    'torch._utils _rebuild_tensor': Function(stand_ins.tensor),
    'torch._utils _rebuild_tensor_v2': Function(stand_ins.tensor),
    'torch._utils _rebuild_tensor_v3': Function(stand_ins.tensor_v3),
    'torch._utils _rebuild_parameter': Function(stand_ins.parameter),
    'torch._utils _rebuild_parameter_with_state': Function(stand_ins.parameter),
    'torch.nn.parameter Parameter': Function(stand_ins.parameter),
    'torch.nn.parameter Buffer': Function(stand_ins.parameter),
    'torch Tensor': Function(lambda data=None, *_: data),
    'torch._tensor _rebuild_from_type_v2': Function(_typed),
    'torch._tensor _rebuild_from_type': Function(_typed),
    'torch.tensor _rebuild_from_type': Function(_typed),
    'torch Size': Function(stand_ins.torch_size),
    'torch.storage _load_from_bytes': Function(lambda *_: Inert('a file of pickle.dump (save it with torch.save)')),
    **OTHER_TENSORS,
    **STORAGES,
    **OTHER_STORAGES,
    **{name.replace('torch ', 'torch.cuda '): dtype for name, dtype in STORAGES.items()},
    **TORCH_DTYPES,
    'dill._dill _create_namedtuple': Function(stand_ins.named_tuple),
    'dill._dill _create_array': Function(stand_ins.array),
    **{
        f'haiku._src.data_structures {name}': Function(stand_ins.mapping)
        for name in ('frozendict', 'FlatMapping', 'FlatMap')
    },
    **{
        name: Function(stand_ins.array)
        for name in ('jax._src.array _reconstruct_array', 'jax._src.device_array reconstruct_device_array')
    },
    '_codecs encode': Function(stand_ins.encode),
    'numpy dtype': Function(stand_ins.Dtype),
    **{
        f'numpy.{core}.{name}': Function(stand_in)
        for core in ('core', '_core')
        for name, stand_in in NUMPY_FUNCTIONS.items()
    },
}

# Modules and functions that run programs or code, which no honest weights file names. They would not run here either:
# such a file is refused so that its owner learns of it before another program opens it.
HOSTILE_MODULES = (
    'os', 'posix', 'nt', 'subprocess', 'pty', 'shutil', 'socket', 'ctypes', 'importlib', 'runpy', 'pdb', 'bdb',
    'webbrowser', 'marshal',
)  # fmt: skip
HOSTILE_NAMES = {
    *(
        f'{module} {name}'
        for module in ('builtins', '__builtin__')
        for name in ('eval', 'exec', 'execfile', 'compile', 'open', 'file', 'input', '__import__', 'breakpoint')
    ),
    'io open', '_io open', 'copyreg add_extension', 'copy_reg add_extension', 'torch load', 'torch.serialization load',
    'torch.hub load', 'pickle loads', 'pickle load', '_pickle loads', '_pickle load', 'sys exit', 'sys modules',
    'code interact', 'timeit timeit', 'timeit repeat', 'cProfile run', 'profile run', 'commands getoutput',
}  # fmt: skip
HARMLESS_NAMES = ('os _Environ',)  # a copy of the environment variables


def stand_in(name: str) -> Any:
    """What 'module name' stands for.

    Raises:
      PickleError: the name is that of something that runs programs or code.
    """
    if name in NAMES:
        return NAMES[name]
    module = name.split(' ')[0].split('.')[0]  # hostile pickles may write os.path.os system
    if (module in HOSTILE_MODULES or name in HOSTILE_NAMES) and name not in HARMLESS_NAMES:
        raise PickleError(
            f'its pickle imports {short(name.replace(" ", "."))}, which weight files do not need: it is refused, and '
            'no code in it was run'
        )
    return Inert(short(name.replace(' ', '.')))
