"""Reads pickles without running them.

A pickle is a program that can import modules and call functions. This reader executes its instructions on a stack of
its own: it builds containers, numbers and texts, and has no instruction that imports. What a pickle names is replaced
by plain data, see `stand_ins`.
"""

import pickletools
from typing import Any

from contrastive_jax.pretrained.pickle_names import stand_in
from contrastive_jax.pretrained.stand_ins import (
    Dtype,
    Function,
    Inert,
    NumpyArray,
    PickleError,
    Storage,
    StorageType,
    key_of,
    kind,
)

# Instructions that no weights file needs: the extension registry, buffers outside of the pickle, and texts that refer
# to objects outside of it.
REFUSED = ('EXT1', 'EXT2', 'EXT4', 'NEXT_BUFFER', 'READONLY_BUFFER', 'PERSID')
MAX_PROTOCOL = 5
# A few bytes could have the same long value copied many times: values copied / bytes read so far, and a start.
MAX_COPIES, FREE_COPIES = 2, 10**5

CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
# Instructions whose argument is the value.
VALUES = (
    'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'STRING', 'BINSTRING', 'SHORT_BINSTRING',
    'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8', 'UNICODE', 'SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8',
    'FLOAT', 'BINFLOAT',
)  # fmt: skip
PUTS = ('PUT', 'BINPUT', 'LONG_BINPUT')  # instructions that store a value under a number
GETS = ('GET', 'BINGET', 'LONG_BINGET')
TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}


class Pickle:
    """The machine that executes one pickle.

    Attributes:
      storages: the storages of its tensors, by their keys.
      inert: the names of the types whose objects are inert, in the order in which they appear.
    """

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self.inert: dict[str, None] = {}
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below the marks
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def read(self, file: Any) -> Any:
        """Executes the pickle at the position of a file.

        Args:
          file: a binary file with the methods read, readline and tell.

        Returns:
          Plain containers and values, with `Tensor`s, `NumpyArray`s and `Inert` objects.

        Raises:
          PickleError: the pickle is hostile or damaged.
        """
        start = file.tell()
        try:
            for count, (opcode, argument, position) in enumerate(pickletools.genops(file)):
                if opcode.name == 'STOP':
                    return self._stack.pop()
                self._execute(opcode.name, argument, count)
                if self._copied > FREE_COPIES + MAX_COPIES * ((position or 0) - start):
                    raise PickleError('it is damaged: it copies the same values again and again')
            raise PickleError('it is damaged: it has no end')
        except PickleError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            reason = ' '.join(str(error).split())[:200]
            raise PickleError(f'it is damaged or not a pickle of weights: {type(error).__name__}: {reason}') from error

    def _execute(self, name: str, argument: Any, count: int) -> None:
        """Executes an instruction; `count` instructions were executed before it."""
        stack = self._stack
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in GETS:
            stack.append(self._memo[int(argument)])
        elif name in PUTS:
            if int(argument) > count:
                raise PickleError('it is damaged: it stores more values than it contains')
            self._memo[int(argument)] = stack[-1]
        elif name == 'MEMOIZE':
            self._memo[len(self._memo)] = stack[-1]
        elif name in REFUSED:
            raise PickleError(f'its pickle contains {name}, which weight files do not need: it is refused')
        elif name == 'PROTO':
            if argument > MAX_PROTOCOL:
                raise PickleError(f'it is a pickle of protocol {argument}; {MAX_PROTOCOL} is the newest that is known')
        elif name != 'FRAME':
            self._build(name, argument)

    def _build(self, name: str, argument: Any) -> None:
        """Executes an instruction that takes values from the stack."""
        match name:
            case 'MARK':
                self._below.append(self._stack)
                self._stack = []
            case 'POP':
                if self._stack:
                    self._stack.pop()
                else:
                    self._marked()
            case 'POP_MARK':
                self._marked()
            case 'DUP':
                self._push(self._stack[-1])
            case 'EMPTY_LIST':
                self._push([])
            case 'EMPTY_DICT':
                self._push({})
            case 'EMPTY_SET':
                self._push(Inert('set'))
            case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
                self._push(tuple(self._pop(TUPLES[name])))
            case 'TUPLE':
                self._push(tuple(self._marked()))
            case 'LIST':
                self._push(self._marked())
            case 'FROZENSET':
                self._marked()
                self._push(Inert('frozenset'))
            case 'DICT':
                values, made = self._marked(), dict[Any, Any]()
                _set_items(made, values)
                self._push(made)
            case 'SETITEM':
                values = self._pop(2)
                _set_items(self._stack[-1], values)
            case 'SETITEMS':
                values = self._marked()
                _set_items(self._stack[-1], values)
            case 'APPEND':
                values = self._pop(1)
                _append(self._stack[-1], values)
            case 'APPENDS' | 'ADDITEMS':
                values = self._marked()
                _append(self._stack[-1], values)
            case 'GLOBAL':
                self._push(self._name(argument))
            case 'STACK_GLOBAL':
                module, attribute = self._pop(2)
                if not isinstance(module, str) or not isinstance(attribute, str):
                    raise PickleError('it is damaged: it names a type by something that is not a text')
                self._push(self._name(f'{module} {attribute}'))
            case 'INST':
                self._push(self._call(self._name(argument), tuple(self._marked())))
            case 'OBJ':
                function, *arguments = self._marked()
                self._push(self._call(function, tuple(arguments)))
            case 'REDUCE' | 'NEWOBJ':
                function, arguments = self._pop(2)
                self._push(self._call(function, arguments))
            case 'NEWOBJ_EX':
                function, arguments, _ = self._pop(3)
                self._push(self._call(function, arguments))
            case 'BUILD':
                (state,) = self._pop(1)
                self._set_state(self._stack[-1], state)
            case 'BINPERSID':
                (reference,) = self._pop(1)
                self._push(self._storage(reference))
            case _:
                raise PickleError(f'its pickle contains {name}, which weight files do not need: it is refused')

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise PickleError('it is damaged: it takes more values than it has')
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def _marked(self) -> list[Any]:
        """The values above the last mark, which are taken from the stack."""
        values, self._stack = self._stack, self._below.pop()
        return values

    def _name(self, name: str) -> Any:
        found = stand_in(name)
        if isinstance(found, Inert):
            self.inert[found.name] = None
        return found

    def _call(self, function: Any, arguments: Any) -> Any:
        """What a call gives: plain data for a `Function`, and otherwise an `Inert` object; nothing else is called."""
        if not isinstance(arguments, tuple):
            raise PickleError('it is damaged: the arguments of a call are not a tuple')
        self._copied += _length(arguments)
        if isinstance(function, Function):
            return function.call(*arguments)
        made = Inert(kind(function))
        made.absorb(arguments)
        return made

    def _set_state(self, made: Any, state: Any) -> None:
        """Sets the state of an object. That of our stand-ins could undo a check or affect the next file."""
        self._copied += _length(state)
        if isinstance(made, Dtype | NumpyArray):
            made.set_state(state)
        elif isinstance(made, Inert):
            made.absorb(state)
        elif not isinstance(made, dict):  # torch sets attributes of an OrderedDict, which are no entries
            raise PickleError('the pickle sets the state of an object; weight files never do this, so it is refused')

    def _storage(self, reference: Any) -> Storage | Inert:
        """The storage of ('storage', type, key, device, size), followed in old files by the storage it is a view of.

        In old files, ('module', class, ...) stands for the class of a pickled network.
        """
        if isinstance(reference, tuple) and len(reference) > 1 and reference[0] == 'module':
            return Inert(kind(reference[1]))
        known = isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == 'storage'
        if known and isinstance(reference[1], Inert):
            return Inert(reference[1].name)
        if not known or not isinstance(reference[1], StorageType):
            raise PickleError('it refers to an object outside of the pickle that is not a storage of numbers')
        _, of, key, _, size, *view = reference
        if type(size) is not int or size < 0 or not isinstance(key, str | int):
            raise PickleError('it refers to an object outside of the pickle that is not a storage of numbers')
        if any(x is not None for x in view):
            raise PickleError('it contains views of storages, as of torch 0.3 -> save it again with a newer torch')
        return self._add(Storage(str(key), of.dtype, size))

    def _add(self, storage: Storage) -> Storage:
        """Adds a storage, unless it is known: tensors may share one, also with different dtypes."""
        first = self.storages.setdefault(storage.key, storage)
        if first.size * first.dtype.itemsize != storage.size * storage.dtype.itemsize:
            raise PickleError(f'it is damaged: storage {storage.key} has two sizes')
        return storage


def _set_items(target: Any, values: list[Any]) -> None:
    if len(values) % 2:
        raise PickleError('it is damaged: a dict has a key without a value')
    if not isinstance(target, dict):
        raise PickleError(f'it is damaged: it sets an item of a {type(target).__name__}')
    for key, value in zip(values[::2], values[1::2], strict=True):
        target[key_of(key)] = value


def _append(target: Any, values: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif not isinstance(target, Inert):
        raise PickleError(f'it is damaged: it appends to a {type(target).__name__}')


def _length(value: Any, depth: int = 2) -> int:
    """The number of values that a call with this argument may copy."""
    if isinstance(value, tuple) and depth:
        return len(value) + sum(_length(part, depth - 1) for part in value)
    return len(value) if isinstance(value, str | bytes | bytearray | tuple | list | dict) else 1
