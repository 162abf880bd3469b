"""The command that writes features: the content of the file, and the messages for mistakes."""

import csv
import io
import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import NearestNeighbors

from contrastive_jax import features, load_encoder
from contrastive_jax.data import sources
from contrastive_jax.data.open import open_source
from contrastive_jax.evaluate.neighbors import nearest_others
from tests import untrained_workdirs
from tests.tiny_configs import get_config

pytestmark = pytest.mark.usefixtures('one_device')

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('run')
    untrained_workdirs.save(get_config('mocov2'), folder)
    return folder


def folder(path: Path, damaged: tuple[int, ...]) -> sources.Source:
    """Class folders with 19 training images, some of which cannot be read, and two held-out images."""
    images = open_source('digits', split='test').array[:21]
    for i, image in enumerate(images):
        file = path / ('train' if i < 19 else 'test') / ('even' if i % 2 == 0 else 'odd') / f'{i:02}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
        if i in damaged:
            file.write_bytes(b'no image')
    return open_source('folder', path=str(path), image_size=8)


def test_the_data_of_the_run(workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With eight devices and a last batch that is not full, each example is there once, in order."""
    file = tmp_path / 'new' / 'test.npz'
    assert features.main([f'--workdir={workdir}', '--split=test', '--batch_size=100', str(file)]) == 0
    out = capsys.readouterr().out
    assert '360 features with 4 values of digits (test), by the encoder of step 3' in out and str(file) in out
    source = open_source('digits', split='test')
    with np.load(file, allow_pickle=False) as held:
        assert set(held) == {'features', 'labels', 'index', 'files', 'classes', 'inputs'}
        inputs = json.loads(held['inputs'].item())
        assert (inputs['encoder'], inputs['step'], inputs['split']) == (str(workdir), 3, 'test')
        assert inputs['data_fingerprint'] == source.fingerprint
        np.testing.assert_array_equal(held['index'], np.arange(360))
        np.testing.assert_array_equal(held['labels'], source.labels)
        np.testing.assert_array_equal(held['classes'], source.classes)
        assert held['labels'].dtype == np.int32 and held['features'].dtype == np.float32
        expected = np.asarray(load_encoder(workdir)(source.array))
        np.testing.assert_allclose(held['features'], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert [p.name for p in file.parent.iterdir()] == ['test.npz']


def test_other_data_and_unreadable_images(workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder(tmp_path / 'images', (0, 11))
    bad = [i for i in range(19) if Path(source.file_name(i)).stem in ('00', '11')]
    assert len(bad) == 2
    file = tmp_path / 'other.npz'
    given = [f'--workdir={workdir}', '--source=folder', f'--path={tmp_path / "images"}', '--split=train', str(file)]
    assert features.main(given) == 0
    assert '2 of 19 images could not be read and are left out' in capsys.readouterr().out
    kept = np.setdiff1d(np.arange(19), bad)
    with np.load(file) as held:
        np.testing.assert_array_equal(held['index'], kept)
        assert held['files'].tolist() == [source.file_name(i) for i in kept]
        np.testing.assert_array_equal(held['labels'], source.labels[kept])
        assert held['classes'].tolist() == ['even', 'odd']
        expected = np.asarray(load_encoder(workdir)(np.stack([source.image(i) for i in kept])))
        np.testing.assert_allclose(held['features'], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_other_features_of_larger_images(tmp_path: Path) -> None:
    untrained_workdirs.save(get_config('dino'), tmp_path / 'run')
    images = np.random.default_rng(0).integers(0, 256, (9, 12, 12, 3), np.uint8)
    np.savez(tmp_path / 'data.npz', images=images)
    given = [f'--workdir={tmp_path / "run"}', '--source=npz', f'--path={tmp_path / "data.npz"}', '--weights=target']
    asked = ['--last_blocks=2', '--average_pool', '--image_size=12']
    assert features.main([*given, *asked, str(tmp_path / 'out.npz')]) == 0
    encoder = load_encoder(tmp_path / 'run', 'target')
    x = encoder.policy.normalize(images)
    before, last = encoder.module.apply(encoder.variables, x, 2, method='intermediate_layers')
    expected = np.concatenate([before[:, 0], last[:, 0], np.mean(last[:, 1:], axis=1)], axis=1)
    with np.load(tmp_path / 'out.npz') as held:
        np.testing.assert_allclose(held['features'], expected, rtol=1e-4, atol=1e-5)


def test_projections(tmp_path: Path) -> None:
    """The features are those of InstDis's linear layer."""
    state = untrained_workdirs.save(get_config('instdis'), tmp_path / 'run')
    given = [f'--workdir={tmp_path / "run"}', '--split=test', '--projector_layers=1', str(tmp_path / 'out.npz')]
    assert features.main(given) == 0
    h, linear = load_encoder(tmp_path / 'run')(open_source('digits', split='test').array), state.params['projector']
    expected = np.asarray(h) @ linear['linear_0']['kernel'] + linear['linear_0']['bias']
    with np.load(tmp_path / 'out.npz') as held:
        np.testing.assert_allclose(held['features'], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_without_labels(workdir: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / 'data.npz', images=open_source('digits').array[:9])
    given = [f'--workdir={workdir}', '--source=npz', f'--path={tmp_path / "data.npz"}', str(tmp_path / 'out.npz')]
    assert features.main(given) == 0
    with np.load(tmp_path / 'out.npz') as held:
        assert set(held) == {'features', 'labels', 'index', 'files', 'inputs'}
        assert held['labels'].tolist() == [-1] * 9 and held['files'].tolist() == [str(i) for i in range(9)]


@pytest.mark.parametrize(
    ('given', 'code', 'line'),
    [
        (['out.txt'], 2, 'out.txt is not an .npz file'),
        (['out.npz', '--batch_size=0'], 2, '--batch_size 0 is out of range'),
        (['out.npz', '--image_size=-1'], 2, '--image_size -1 is out of range'),
        (['out.npz', '--last_blocks=4'], 2, 'the last 4 blocks: resnet_tiny is not a ViT'),
        (['out.npz', '--weights=target', '--average_pool'], 2, 'an average pool: resnet_tiny is not a ViT'),
        (['out.npz', '--projector_layers=3'], 2, 'projector_layers 3: the projector of'),
        (['out.npz', '--projector_layers=1', '--average_pool'], 2, 'leave out --last_blocks and --average_pool'),
        (['out.npz', '--step=4'], 2, 'there is no checkpoint of step 4 in '),
        (['out.npz', '--step=best'], 2, ' -> choose from 3; a run with config.keep_best='),
        (['out.npz', '--step=last'], 2, "step 'last' is neither a number nor 'best' -> "),
        (['out.npz', '--split=trian'], 2, "did you mean 'train'"),
        (['out.npz', '--source=npz'], 2, 'needs data.path -> '),
        (['out.npz', '--source=npz', '--path=no.npz'], 3, 'does not exist'),
        (['/proc/out.npz'], 2, 'cannot write /proc/out.npz'),
    ],
)
def test_mistakes_end_with_a_line(
    given: list[str],
    code: int,
    line: str,
    workdir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert features.main([f'--workdir={workdir}', *given]) == code
    err = capsys.readouterr().err
    assert line in err and err.count('\n') == 1
    assert not list(tmp_path.iterdir())


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert features.main([f'--workdir={tmp_path}', 'out.npz']) == 2
    assert 'give the workdir of a run' in capsys.readouterr().err


def test_two_processes_write_what_one_writes(workdir: Path, tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(('localhost', 0))
        address = f'localhost:{s.getsockname()[1]}'
    command = [sys.executable, '-m', 'contrastive_jax.features', f'--workdir={workdir}', '--split=test']
    where = [f'--coordinator_address={address}', '--num_processes=2']
    children = [
        subprocess.Popen([*command, *where, f'--process_id={i}', str(tmp_path / f'{i}.npz')], cwd=REPOSITORY)
        for i in range(2)
    ]
    assert [child.wait(120) for child in children] == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ['0.npz'], 'one process writes for both'
    assert features.main([f'--workdir={workdir}', '--split=test', str(tmp_path / 'one.npz')]) == 0
    with np.load(tmp_path / '0.npz') as two, np.load(tmp_path / 'one.npz') as one:
        np.testing.assert_array_equal(two['index'], one['index'])
        np.testing.assert_allclose(two['features'], one['features'], rtol=1e-4, atol=1e-5)


def test_every_image_unless_a_split_is_asked_for(workdir: Path, tmp_path: Path) -> None:
    """Those that a run would hold out, too."""
    for i, label in enumerate('aabbb'):
        file = tmp_path / 'photos' / label / f'{i}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (9, 9), (40 * i, 0, 0)).save(file)
    given = [f'--workdir={workdir}', '--source=folder', f'--path={tmp_path / "photos"}']
    for split, n in (([], 5), (['--split=train'], 3), (['--split=test'], 2)):
        assert features.main([*given, *split, str(tmp_path / 'x.npz')]) == 0
        with np.load(tmp_path / 'x.npz') as found:
            assert len(found['features']) == len(found['files']) == n


def test_near_duplicates_are_neighbours(workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against scikit-learn; a copy of an image is its nearest neighbour, names are written as they are."""
    images = open_source('digits', split='test').array[:10]
    for name, i in (*((f'{i}.png', i) for i in range(10)), ('a copy, "of" 4\n.png', 4), ('caf\udce9.png', 7)):
        Image.fromarray(images[i]).save(tmp_path / name)
    given = [f'--workdir={workdir}', '--source=folder', f'--path={tmp_path}', '--neighbours=3']
    assert features.main([*given, str(tmp_path / 'out.npz')]) == 0
    assert 'out.neighbours.csv: the 3 nearest others of each image' in capsys.readouterr().out
    text = (tmp_path / 'out.neighbours.csv').read_bytes().decode('utf-8', 'surrogateescape')
    lines = list(csv.reader(io.StringIO(text, newline='')))
    assert lines[0] == ['file', 'neighbour', 'similarity'] and len(lines) == 1 + 12 * 3
    with np.load(tmp_path / 'out.npz') as held:
        files, h = held['files'].tolist(), held['features']
    assert sorted({line[0] for line in lines[1:]}) == sorted(files) and all(line[0] != line[1] for line in lines)
    nearest = {Path(line[0]).name: (Path(line[1]).name, float(line[2])) for line in reversed(lines[1:])}
    assert nearest['4.png'] == ('a copy, "of" 4\n.png', 1) and nearest['caf\udce9.png'][1] == 1
    expected = 1 - np.sort(NearestNeighbors(n_neighbors=4, metric='cosine').fit(h).kneighbors(h)[0])[:, 1:]
    np.testing.assert_allclose([float(line[2]) for line in lines[1:]], expected.ravel(), atol=2e-6)
    assert features.main([*given[:-1], '--neighbours=12', str(tmp_path / 'no.npz')]) == 2
    assert '12 neighbors of each of 12 images, which have 11 others -> choose from 1 to 11' in capsys.readouterr().err
    assert not (tmp_path / 'no.npz').exists()


@pytest.mark.parametrize('rows', [1, 7, 52, 53, 100])
def test_neighbours_in_blocks(rng: np.random.Generator, rows: int) -> None:
    x = rng.normal(size=(53, 6))
    similarity = 1 - cosine_distances(x) - 3 * np.eye(53)
    nearest, found = nearest_others(x, 5, max_similarities=53 * rows)
    np.testing.assert_array_equal(nearest, np.argsort(-similarity, axis=1)[:, :5])
    np.testing.assert_allclose(found, -np.sort(-similarity, axis=1)[:, :5], atol=1e-6)
