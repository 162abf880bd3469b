"""Malicious, damaged and oversized files are refused with a one-line error, and no code in them runs."""

import argparse
import bz2
import collections
import contextlib
import copyreg
import datetime
import decimal
import enum
import functools
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import serialization
from safetensors.numpy import save_file

from contrastive_jax import pretrained
from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import files, pickle_names, stand_ins, torch_files, writers
from tests.pretrained import published_files

WRITERS = [published_files.write_zip, published_files.write_legacy]


class Payload:
    """An object whose pickle calls `call(*args)` when it is loaded."""

    def __init__(self, call: Any, *args: Any):
        self.reduced = (call, args)

    def __reduce__(self) -> Any:
        return self.reduced


class Extended(Payload):
    def __reduce_ex__(self, protocol: int) -> Any:  # type: ignore[override]
        return self.reduced


def payloads(canary: Path) -> dict[str, tuple[Any, str]]:
    """Objects whose pickles would create the canary file, and the name that is refused."""
    system = f'{os.system.__module__}.system'
    return {
        'system': (Payload(os.system, f'touch {canary}'), system),
        'reduce_ex': (Extended(os.system, f'touch {canary}'), system),
        'eval': (Payload(eval, f'open({str(canary)!r}, "w")'), 'eval'),
        'open': (Payload(open, str(canary), 'w'), 'open'),
        'getattr': (Payload(getattr, Payload(__import__, 'os'), 'system'), r'getattr|__import__'),
        'copyreg': (Payload(copyreg.add_extension, 'os', 'system', 1), 'add_extension'),
        'inside': ({'state_dict': {}, 'optimizer': [Payload(os.mkdir, str(canary))]}, 'mkdir'),
    }


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize('name', payloads(Path()))
def test_malicious_pickle(tmp_path: Path, name: str, write: Callable[..., Path], protocol: int) -> None:
    canary = tmp_path / 'canary'
    payload, refused = payloads(canary)[name]
    path = write(tmp_path / 'x.pth', pickle.dumps(payload, protocol))
    with pytest.raises(UserError, match=rf'its pickle imports [\w.]*({refused}).*no code in it was run'):
        files.read(path)
    assert not canary.exists()
    if name == 'inside':
        pickle.loads(pickle.dumps(payload, protocol))
        assert canary.exists(), 'what is refused here would have worked elsewhere'


@pytest.mark.parametrize(
    ('program', 'line'),
    [
        (b"(S'touch canary'\nios\nsystem\n.", r'its pickle imports os\.system'),
        (b'\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch canary\x85R.', r'its pickle imports os\.system'),
        (b'\x80\x02\x82\x01.', 'EXT1'),
        (b'\x80\x05\x96' + struct.pack('<Q', 2**40) + b'.', 'BYTEARRAY8|damaged'),
        (b'\x80\x02]r' + struct.pack('<I', 2**31) + b'.', 'stores more values than it contains'),
        (b'ctorch\nSize\n)ccollections\nOrderedDict\ncposix\nsystem\n0.', r'its pickle imports posix\.system'),
        (b'ctorch\nSize\n(' + b'(' + b'K\x01' * 100 + b'ttR.', 'a shape with 100 axes'),
        # changes a stand-in, which would affect the next file
        (b'ctorch\nFloatStorage\n}(U\x05dtypeK\x01ub.', 'sets the state of an object'),
        (b'ctorch._utils\n_rebuild_tensor_v2\n}(U\x04callK\x01ub.', 'sets the state of an object'),
        (b'c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.', "codec 'rot13'"),
    ],
)  # fmt: skip
def test_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'x.pkl'
    path.write_bytes(program)
    with pytest.raises(UserError, match=line):
        files.read(path)
    assert not (tmp_path / 'canary').exists()
    assert pickle_names.STORAGES['torch FloatStorage'].dtype == np.float32


def tensor(
    shape: Any = (2, 3),
    strides: Any = (3, 1),
    offset: int = 0,
    size: int = 6,
    key: str = '0',
    metadata: dict[str, bool] | None = None,
) -> bytes:
    """The pickle of {'x': a tensor with these properties}."""

    def numbers(values: Any) -> bytes:
        return pickle.dumps(tuple(values), 2)[2:-1]

    storage = writers._tuple(
        *(pickle.dumps(x, 2)[2:-1] for x in ('storage',)),
        writers._name('torch', 'FloatStorage'),
        *(pickle.dumps(x, 2)[2:-1] for x in (key, 'cpu', size)),
    )
    arguments = (storage + pickle.BINPERSID, pickle.dumps(offset, 2)[2:-1], numbers(shape), numbers(strides))
    call = writers._name('torch._utils', '_rebuild_tensor_v2') + writers._tuple(
        *arguments, pickle.NEWFALSE, writers._ordered_dict(), *([pickle.dumps(metadata, 2)[2:-1]] if metadata else [])
    )
    return b'\x80\x02' + writers._dict({'x': call + pickle.REDUCE}) + b'.'


@pytest.mark.parametrize(
    'fields',
    [
        {'shape': (2**40,), 'strides': (1,)},
        {'shape': (2**40,), 'strides': (0,)},
        {'shape': (2**70, 2**70)},
        {'shape': (2, 3), 'strides': (4, 1)},
        {'offset': 1},
        {'offset': -1},
        {'strides': (-3, -1)},
        {'shape': (-2, -3)},
        {'shape': (2.0, 3)},
        {'strides': (1,)},
        {'size': 2**40},
        {'size': -1},
        {'key': '../data.pkl'},
    ],
)
@pytest.mark.parametrize('write', WRITERS)
def test_tensors_stay_within_their_storage(tmp_path: Path, write: Callable[..., Path], fields: Any) -> None:
    path = write(tmp_path / 'x.pth', tensor(**fields), [np.zeros(6, np.float32)])
    with pytest.raises(UserError):
        source = files.read(path)
        source.array(source.content['x'])


@pytest.mark.parametrize('write', WRITERS)
def test_a_tensor_is_a_view(tmp_path: Path, write: Callable[..., Path]) -> None:
    stored = np.arange(6, dtype=np.float32)
    path = write(tmp_path / 'x.pth', tensor(shape=(2, 2), strides=(1, 2), offset=1), [stored])
    source = files.read(path)
    np.testing.assert_array_equal(source.array(source.content['x']), [[1, 3], [2, 4]])


@pytest.mark.parametrize(
    ('fields', 'expected'),
    [
        ({'metadata': {'neg': True}}, [[0, -1, -2], [-3, -4, -5]]),  # torch's negative bit
        ({'strides': (1, 2)}, [[0, 2, 4], [1, 3, 5]]),  # another memory layout
        ({'strides': (0, 1)}, [[0, 1, 2], [0, 1, 2]]),  # expanded
        ({'strides': (0, 0), 'offset': 5}, [[5, 5, 5], [5, 5, 5]]),
        ({'shape': (0, 3), 'strides': (3, 1)}, np.zeros((0, 3))),
        ({'shape': (), 'strides': (), 'offset': 2}, 2),
    ],
)
def test_the_numbers_of_a_view(tmp_path: Path, fields: Any, expected: Any) -> None:
    path = published_files.write_zip(tmp_path / 'x.pth', tensor(**fields), [np.arange(6, dtype=np.float32)])
    source = files.read(path)
    np.testing.assert_array_equal(source.array(source.content['x']), expected)


def test_the_next_file_is_not_affected_by_a_tampered_tensor(tmp_path: Path) -> None:
    program = tensor()[:-2]  # before SETITEMS and STOP
    tampered = program + b'}(X\x05\x00\x00\x00shapeK\x09\x85ub' + b'u.'
    path = published_files.write_zip(tmp_path / 'x.pth', tampered, [np.zeros(6, np.float32)])
    with pytest.raises(UserError, match='sets the state of an object'):
        files.read(path)


def test_every_dtype(tmp_path: Path) -> None:
    dtypes = [kind.dtype for kind in pickle_names.STORAGES.values()]
    assert {dtype.name for dtype in dtypes} == set(writers.STORAGES)
    state = {dtype.name: np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype) for dtype in dtypes}
    for legacy in (False, True):
        source = files.read(published_files.write(tmp_path / 'x.pth', {'state_dict': state}, legacy))
        for name, x in source.content['state_dict'].items():
            assert source.array(x).dtype.name == name
            np.testing.assert_array_equal(source.array(x), state[name])


# ================================ archives ================================


@pytest.mark.parametrize('name', ['../../x', '/etc/x', 'archive/../../x', '\\x', 'C:x'])
def test_members_point_nowhere_else(tmp_path: Path, name: str) -> None:
    path = published_files.write(tmp_path / 'x.pth', {'state_dict': {'a': np.zeros(2)}})
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr(name, b'x')
    with pytest.raises(UserError, match='is a path outside of the archive'):
        files.read(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_zip_bomb(tmp_path: Path) -> None:
    path = tmp_path / 'x.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', pickle.dumps({}, 2))
        archive.writestr('archive/data/0', bytes(10_000_000))
    with pytest.raises(UserError, match='is compressed'):
        files.read(path)


def test_an_npz_bomb(tmp_path: Path) -> None:
    path = tmp_path / 'x.npz'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for i in range(8):
            archive.writestr(f'{i}.npy', bytes(10_000_000))
    with pytest.raises(UserError, match='would expand to 80000000 bytes'):
        files.read(path)


def test_an_npz_with_a_huge_shape(tmp_path: Path) -> None:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {'descr': '<f4', 'fortran_order': False, 'shape': (2**40,)})
    with zipfile.ZipFile(tmp_path / 'x.npz', 'w') as archive:
        archive.writestr('a.npy', out.getvalue() + bytes(16))
    source = files.read(tmp_path / 'x.npz')
    with pytest.raises(UserError, match='damaged'):
        source.array(source.content['a'])


def test_numpy_objects_are_not_read(tmp_path: Path) -> None:
    canary = tmp_path / 'canary'
    array = np.array([Payload(os.mkdir, str(canary))], dtype=object)
    np.savez(tmp_path / 'x.npz', a=array)
    np.save(tmp_path / 'x.npy', array)
    source = files.read(tmp_path / 'x.npz')
    with pytest.raises(UserError, match='contains Python objects'):
        source.array(source.content['a'])
    with pytest.raises(UserError, match='a single array without a name'):
        files.read(tmp_path / 'x.npy')
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps({'a': np.array(['x', None], dtype=object)}, 2))
    source = files.read(tmp_path / 'x.pkl')
    with pytest.raises(UserError, match='numpy array of objects instead of an array'):
        source.array(source.content['a'])
    assert not canary.exists()


KINDS = ['zip', 'legacy', 'npz', 'pkl', 'safetensors']


def write_kind(tmp_path: Path, kind: str, state: dict[str, np.ndarray]) -> Path:
    """Writes a file of this kind."""
    path = tmp_path / {'zip': 'x.pth', 'legacy': 'x.pth.tar'}.get(kind, f'x.{kind}')
    if kind in ('zip', 'legacy'):
        published_files.write(path, {'state_dict': state}, kind == 'legacy')
    elif kind == 'npz':
        np.savez(path, **state)  # type: ignore[arg-type]
    elif kind == 'pkl':
        writers.write_detectron2(path, state, 'x')
    else:
        save_file(state, path)
    return path


def read_all(path: Path) -> dict[str, np.ndarray]:
    source = files.read(path)
    held = source.content.get('state_dict', source.content.get('model', source.content))
    return {name: source.array(leaf) for name, leaf in held.items()}


@pytest.mark.parametrize('kind', KINDS)
def test_truncated_files(tmp_path: Path, kind: str) -> None:
    """A file that is cut anywhere raises a UserError, when it is opened or when its arrays are read."""
    state = {'a.weight': np.arange(12, dtype=np.float32).reshape(3, 4), 'b': np.ones(5)}
    path = write_kind(tmp_path, kind, state)
    held = read_all(path)
    assert set(held) == set(state)
    for name, x in held.items():
        np.testing.assert_array_equal(x, state[name])
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 50)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            read_all(path)


@pytest.mark.parametrize('kind', KINDS)
def test_damaged_files(tmp_path: Path, kind: str) -> None:
    """Wrong bytes anywhere raise a UserError or, if they cannot be detected, change numbers; nothing else is raised."""
    rng = np.random.default_rng(0)
    path = write_kind(tmp_path, kind, {'conv1.weight': np.ones((2, 3, 3, 3), np.float32), 'b': np.ones(2)})
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(300):
        damaged = whole.copy()
        damaged[rng.integers(len(whole), size=rng.integers(1, 4))] = rng.integers(256)
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(UserError):
            pretrained.load(path)


@pytest.mark.parametrize(
    ('held', 'line'),
    [
        (b'', 'is empty'),
        (b'<html>not found</html>', 'is a web page, so the download went wrong -> download it again$'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'pointer of Git LFS.* -> fetch it with git lfs pull$'),
        (gzip.compress(b'weights'), 'compressed by gzip -> unpack it first$'),
        (lzma.compress(b'weights'), 'compressed by xz -> unpack it first$'),
        (bz2.compress(b'weights'), 'compressed by bzip2 -> unpack it first$'),
        (b'\x89HDF\r\n\x1a\n', 'an HDF5 file.* -> read it with h5py'),
        (b'weights', 'is text -> give a file of PyTorch'),
        (bytes(100), 'of an unknown kind'),
        (bytes(257) + b'ustar', 'tar file'),
        (pickle.dumps({'a': 1}, 2), 'torch.save did not write it -> .* rename it to .pkl'),
    ],
)
def test_other_files(tmp_path: Path, held: bytes, line: str) -> None:
    (tmp_path / 'x.pth').write_bytes(held)
    with pytest.raises(UserError, match=line):
        files.read(tmp_path / 'x.pth')


def test_a_file_of_flax(tmp_path: Path) -> None:
    (tmp_path / 'x.msgpack').write_bytes(serialization.to_bytes({'params': np.zeros(3, np.float32)}))
    with pytest.raises(UserError, match=r'a MessagePack file -> restore it with flax.*np.savez$'):
        files.read(tmp_path / 'x.msgpack')


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='No such file'):
        files.read(tmp_path / 'x.pth')


def test_files_of_python_2_and_what_lies_beside_weights(tmp_path: Path) -> None:
    """InstDis saved its memory bank as an object of its own class; DINO and CMC saved their arguments."""
    bank = b'clib.NCEAverage\nNCEAverage\n)\x81}(U\x08momentumG?\xe0\x00\x00\x00\x00\x00\x00ub'
    args = b'cargparse\nNamespace\n)\x81}(U\x02lrK\x01ub'
    sections = {'arch': b'U\x08resnet18', 'lemniscate': bank, 'args': args, 'state_dict': {'a': np.ones(2)}}
    source = files.read(published_files.write(tmp_path / 'x.pth', sections, legacy=True))
    assert source.content['arch'] == 'resnet18'
    assert isinstance(source.content['lemniscate'], stand_ins.Inert)
    np.testing.assert_array_equal(source.array(source.content['state_dict']['a']), np.ones(2))
    with pytest.raises(UserError, match=r'contains argparse\.Namespace instead of a tensor'):
        source.array(source.content['args'])


def test_numbers_of_numpy(tmp_path: Path) -> None:
    held = {'loss': np.float64(0.5), 'a': np.arange(6, dtype='>i4').reshape(2, 3, order='F')}
    for protocol in range(2, 5):
        (tmp_path / 'x.pkl').write_bytes(pickle.dumps(held, protocol))
        source = files.read(tmp_path / 'x.pkl')
        assert source.content['loss'] == 0.5
        np.testing.assert_array_equal(source.array(source.content['a']), held['a'])


def test_torch_storages_are_read_when_they_are_wanted(tmp_path: Path) -> None:
    opened = torch_files.read(published_files.write(tmp_path / 'x.pth', {'state_dict': {'a': np.zeros(1000)}}))
    assert isinstance(opened.content['state_dict']['a'], stand_ins.Tensor)


# ================================ what lies beside the weights ================================


class Color(enum.Enum):
    RED = 1


class Mine(dict[str, int]):
    """A dict of the user's own, with an attribute."""

    def __init__(self) -> None:
        super().__init__(a=1)
        self.b = 2


class Slots:
    __slots__ = ('x',)

    def __init__(self) -> None:
        self.x = [1, 2]


def function(x: Any) -> Any:
    return x


OBJECTS: dict[str, Any] = {
    'counter': collections.Counter('abca'), 'path': Path('/x'), 'arguments': argparse.Namespace(lr=0.1),
    'dict of a class': Mine(), 'slots': Slots(), 'partial': functools.partial(function, 1), 'function': function,
    'class': Slots, 'enum': Color.RED, 'key': {Color.RED: 1, ('a', 1): 2}, 'time': datetime.datetime(2020, 1, 1),
    'default dict': collections.defaultdict(list, a=[1]), 'deque': collections.deque([1], maxlen=2), 'set': {1, 2},
    'frozen set': frozenset([1]), 'complex': 1j, 'slice': slice(1), 'range': range(3), 'bytes': bytearray(b'x'),
    'decimal': decimal.Decimal('1.5'), 'error': ValueError('x'), 'method': collections.Counter('a').most_common,
    'generator': np.random.default_rng(0), 'numpy': np.float64(3), 'objects': np.array(['a', None], object),
    'texts': np.array(['ab']), 'dtype': np.dtype('f4'), 'big': 2**100, 'nothing': None,
    'namespace': types.SimpleNamespace(a=1),
}  # fmt: skip


@pytest.mark.parametrize('protocol', range(6))
def test_objects_beside_arrays(tmp_path: Path, protocol: int) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    objects = {name: x for name, x in OBJECTS.items() if protocol > 1 or name != 'slots'}  # needs protocol 2
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps({**objects, 'array': array}, protocol))
    source = files.read(tmp_path / 'x.pkl')
    np.testing.assert_array_equal(source.array(source.content['array']), array)
    assert set(source.content) == {*objects, 'array'}
    assert {'collections.Counter', 'argparse.Namespace', f'{__name__}.Mine'} <= set(source.inert)


@pytest.mark.parametrize('legacy', [False, True])
def test_objects_beside_weights(tmp_path: Path, legacy: bool) -> None:
    weights = np.ones((2, 3), np.float32)
    source = files.read(published_files.write(tmp_path / 'x.pth', {**OBJECTS, 'state': {'w': weights}}, legacy))
    np.testing.assert_array_equal(source.array(source.content['state']['w']), weights)
    with pytest.raises(UserError, match=r'it contains functools\.partial instead of a tensor'):
        source.array(source.content['partial'])


def test_calls_of_unknown_names_run_nothing(tmp_path: Path) -> None:
    """Names that are not known to be hostile are not called either."""
    canary = tmp_path / 'canary'
    payload = {'a': Payload(Path.touch, canary), 'b': Payload(np.savetxt, str(canary), [1]), 'w': np.ones(2)}
    for protocol in (4, 5):
        (tmp_path / 'x.pkl').write_bytes(pickle.dumps(payload, protocol))
        source = files.read(tmp_path / 'x.pkl')
        np.testing.assert_array_equal(source.array(source.content['w']), np.ones(2))
        assert not canary.exists()
    pickle.loads(pickle.dumps(payload, 4))
    assert canary.exists(), 'what is inert here would have run elsewhere'


def test_bombs(tmp_path: Path) -> None:
    """A few bytes that have a long value copied many times, or nest values deeply, take neither memory nor time."""
    encode = b'c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R'
    text = b'\x80\x02]X' + struct.pack('<I', 10**6) + b'x' * 10**6 + b'q\x000' + encode * 10**4 + b'.'
    ordered = (
        b'\x80\x02]q\x00(' + b'K\x01K\x02\x86' * 10**4 + b'e0' + b'ccollections\nOrderedDict\nh\x00\x85R' * 1000 + b'.'
    )
    for program in (text, ordered):
        (tmp_path / 'x.pkl').write_bytes(program)
        with pytest.raises(UserError, match='copies the same values again and again'):
            files.read(tmp_path / 'x.pkl')
    deep = b'\x80\x02}' + b')' + b'\x85' * 10**5 + b'K\x01s.'  # a key of many nested tuples
    (tmp_path / 'x.pkl').write_bytes(deep)
    (key,) = files.read(tmp_path / 'x.pkl').content
    assert isinstance(key, stand_ins.Inert)
    shared = b'\x80\x02}'  # a dict whose thousand values are one dict, whose thousand values are one dict, ...
    for _ in range(7):
        shared += b'q\x000}(' + b''.join(b'U\x04%04dh\x00' % i for i in range(1000)) + b'u'
    published_files.write_zip(tmp_path / 'x.pth', shared + b'.')
    with pytest.raises(UserError, match='is in no known checkpoint format'):
        pretrained.load(tmp_path / 'x.pth')


# ================================ dtypes of safetensors ================================


def test_float8_in_safetensors(tmp_path: Path) -> None:
    """Against the values of the two formats as their papers define them (arXiv:2209.05433)."""
    raw = {'F8_E4M3': ([0x38, 0xC0, 0x7E, 0x01], [1, -2, 448, 2**-9]), 'F8_E5M2': ([0x3C, 0xC0, 0x7B], [1, -2, 57344])}
    header, numbers = {}, b''
    for kind, (codes, _) in raw.items():
        offsets = [len(numbers), len(numbers) + len(codes)]
        header[kind] = {'dtype': kind, 'shape': [len(codes)], 'data_offsets': offsets}
        numbers += bytes(codes)
    text = json.dumps(header).encode()
    (tmp_path / 'x.safetensors').write_bytes(struct.pack('<Q', len(text)) + text + numbers)
    source = files.read(tmp_path / 'x.safetensors')
    for kind, (_, values) in raw.items():
        np.testing.assert_array_equal(source.array(source.content[kind]).astype(np.float32), values)


@pytest.mark.parametrize('kind', ['C64', 'F4', 'F8_E8M0', 'X'])
def test_other_dtypes_in_safetensors(tmp_path: Path, kind: str) -> None:
    text = json.dumps(
        {'a': {'dtype': kind, 'shape': [2], 'data_offsets': [0, {'C64': 16, 'F4': 1}.get(kind, 2)]}}
    ).encode()
    (tmp_path / 'x.safetensors').write_bytes(struct.pack('<Q', len(text)) + text + bytes(16 if kind == 'C64' else 2))
    with pytest.raises(UserError, match=r'complex64 instead of real numbers|which is not supported|is damaged'):
        source = files.read(tmp_path / 'x.safetensors')
        source.array(source.content['a'])
