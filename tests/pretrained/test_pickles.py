"""Malicious, damaged and oversized files are refused with a one-line error, and no code in them runs."""

import contextlib
import copyreg
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from contrastive_jax import pretrained
from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import files, stand_ins, torch_files, writers
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
    assert stand_ins.STORAGES['torch FloatStorage'].dtype == np.float32


def tensor(shape: Any = (2, 3), strides: Any = (3, 1), offset: int = 0, size: int = 6, key: str = '0') -> bytes:
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
        *arguments, pickle.NEWFALSE, writers._ordered_dict()
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


def test_the_next_file_is_not_affected_by_a_tampered_tensor(tmp_path: Path) -> None:
    program = tensor()[:-2]  # before SETITEMS and STOP
    tampered = program + b'}(X\x05\x00\x00\x00shapeK\x09\x85ub' + b'u.'
    path = published_files.write_zip(tmp_path / 'x.pth', tampered, [np.zeros(6, np.float32)])
    with pytest.raises(UserError, match='sets the state of an object'):
        files.read(path)


def test_every_dtype(tmp_path: Path) -> None:
    dtypes = [kind.dtype for kind in stand_ins.STORAGES.values()]
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
    with pytest.raises(UserError, match=r'only arrays of numbers|damaged'):
        (tmp_path / 'x.pkl').write_bytes(pickle.dumps({'a': np.array(['x', None], dtype=object)}, 2))
        files.read(tmp_path / 'x.pkl')
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
        (b'<html>not found</html>', 'is text'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'is text'),
        (bytes(100), 'of an unknown kind'),
        (bytes(257) + b'ustar', 'tar file'),
        (pickle.dumps({'a': 1}, 2), 'torch.save did not write it'),
    ],
)
def test_other_files(tmp_path: Path, held: bytes, line: str) -> None:
    (tmp_path / 'x.pth').write_bytes(held)
    with pytest.raises(UserError, match=line):
        files.read(tmp_path / 'x.pth')


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
    with pytest.raises(UserError, match='contains a Inert instead of a tensor'):
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
