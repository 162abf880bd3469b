"""The encoder of a run: its weights and input normalization; loading does not change the workdir."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from contrastive_jax import convert, load_encoder, pretrained
from contrastive_jax.config.build import build_network, build_policy
from contrastive_jax.errors import CheckpointError, UserError
from contrastive_jax.pretrained import export
from contrastive_jax.workdir.described import FOLDER
from tests import train_steps, untrained_workdirs
from tests.complete_runs import tree_digest
from tests.tiny_configs import get_config

# A read that Orbax cancels may end after its event loop is closed; pytest reports that as a warning.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.fixture(scope='module')
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MoCo v2 with checkpoints of steps 3 and 6."""
    workdir = tmp_path_factory.mktemp('moco')
    untrained_workdirs.save(get_config('mocov2'), workdir, (3, 6))
    return workdir


@pytest.fixture
def workdir(given: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(given, tmp_path / 'run'))


@pytest.mark.parametrize(
    ('name', 'mode', 'count'),
    [(name, 'jit', 1) for name in ('mocov2', 'mocov3_vit', 'cpc', 'cmc', 'dino')]
    + [(name, 'pmap', 4) for name in ('mocov2', 'cmc')],
)
def test_features_are_those_of_the_saved_weights(name: str, mode: str, count: int, tmp_path: Path) -> None:
    config = get_config(name)
    state = untrained_workdirs.save(config, tmp_path, mode=mode, count=count)
    encoder = load_encoder(tmp_path)
    assert encoder.step == 3 and encoder.module == build_network(config).encoder
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    x = build_policy(config).normalize(images)
    stats = state.method.batch_stats['online'].get('encoder', {})
    expected = encoder.module.apply({'params': state.params['encoder'], 'batch_stats': stats}, x, train=False)
    h = encoder(images)
    assert h.dtype == np.float32 and h.shape == (5, expected.shape[1])
    np.testing.assert_allclose(h, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(encoder.module.apply(encoder.variables, x, train=False), expected, rtol=1e-5)


def test_the_newest_is_taken_and_nothing_is_touched(given: Path) -> None:
    before = tree_digest(given)
    assert load_encoder(given).step == 6
    assert load_encoder(str(given)).step == 6
    assert tree_digest(given) == before


def test_a_step_is_taken_or_refused(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = load_encoder(given, step=3)
    assert first.step == 3 and first.fingerprint == load_encoder(given, step='3').fingerprint
    assert first.fingerprint != load_encoder(given, step=6).fingerprint
    with pytest.raises(UserError, match=r'no checkpoint of step 5 in .* -> choose from 3, 6$'):
        load_encoder(given, step=5)
    file = tmp_path / 'x.safetensors'
    assert convert.main([str(given), str(file), '--step=3']) == 0
    assert load_encoder(file).fingerprint == first.fingerprint
    with pytest.raises(UserError, match=r'is a file of weights, .* no steps'):
        load_encoder(file, step=3)
    assert convert.main([str(given), str(file), '--step=4']) == 2
    assert 'choose from 3, 6\n' in capsys.readouterr().err


def test_every_config_describes_its_encoder_as_json(tmp_path: Path) -> None:
    """A config becomes JSON, which has no tuples, and describes the encoder after it is read again."""
    for name in train_steps.CONFIGS:
        (tmp_path / 'config.json').write_text(train_steps.load(name).to_json())
        with pytest.raises(
            CheckpointError, match=r'there is no checkpoint in .* -> train until the first one, or give'
        ):
            load_encoder(tmp_path)


@pytest.mark.parametrize('damage', ['deleted', 'emptied', 'flipped'])
def test_a_damaged_checkpoint_is_passed_over(workdir: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    newest = workdir / FOLDER / '6' / 'default'
    for file in (p for p in newest.rglob('*') if p.is_file() and p.parent.name == 'd'):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        if damage == 'deleted':
            file.unlink()
        else:
            file.write_bytes(b'' if damage == 'emptied' else bytes(data))
    before = tree_digest(workdir)
    assert load_encoder(workdir).step == 3
    assert 'the checkpoint of step 6 cannot be used' in caplog.text
    assert tree_digest(workdir) == before


def test_another_architecture(workdir: Path) -> None:
    config = json.loads((workdir / 'config.json').read_text())
    config['encoder']['width'] *= 2
    (workdir / 'config.json').write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as error:
        load_encoder(workdir)
    line = str(error.value)
    assert 'it holds another model: ' in line and '\n' not in line
    assert line.split('step 3')[0].count('is float32[') == 5 and ' more' in line


@pytest.mark.parametrize(
    ('config', 'line'),
    [
        (None, 'No such file'),
        ('', 'is not the JSON of a run'),
        ('[1]', 'it holds no config'),
        ('{}', 'describes no encoder'),
        ('{"encoder": 3}', 'describes no encoder'),
        ('{"encoder": {"name": "resnet51"}}', 'describes no encoder'),
        ('{"protocol": "knn", "init": "runs/a"}', r'workdir of an evaluation \(knn\) -> .* that it evaluated: runs/a'),
    ],
)
def test_no_run(tmp_path: Path, config: str | None, line: str) -> None:
    if config is not None:
        (tmp_path / 'config.json').write_text(config)
    with pytest.raises(UserError, match=line):
        load_encoder(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    for name in ('run', 'r50.pth'):
        with pytest.raises(UserError, match=f'{name} does not exist -> give the workdir of a run, or a file'):
            load_encoder(tmp_path / name)


def test_a_config_is_data(workdir: Path) -> None:
    """Values that look like code are not executed."""
    config = json.loads((workdir / 'config.json').read_text())
    config['augment']['interpolation'] = '__import__("os").system("touch canary")'
    (workdir / 'config.json').write_text(json.dumps(config))
    with pytest.raises(UserError, match='interpolation'):
        load_encoder(workdir)
    assert not Path('canary').exists()


def test_images_must_be_bytes(given: Path) -> None:
    encoder = load_encoder(given)
    for images in (np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 8, 1), np.uint8)):
        with pytest.raises(UserError, match=r'give uint8\[n, H, W, 3\]'):
            encoder(images)


def test_an_encoder_is_printed_in_one_line(given: Path) -> None:
    line = repr(load_encoder(given))
    assert '\n' not in line and len(line) < 400
    assert re.match(r'<Encoder resnet_tiny,.*stem=cifar.*: images of 8 x 8 x 3 -> \d+ features; from ', line)
    assert str(given) in line and 'step 6' in line


def test_under_jit(given: Path) -> None:
    """An encoder is a pure function of images, so another jitted program can call it."""
    encoder = load_encoder(given)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    np.testing.assert_allclose(jax.jit(encoder)(images), encoder(images), rtol=1e-5)


@pytest.mark.parametrize('name', ['mocov2', 'simclr', 'mocov3_vit', 'cmc'])
def test_a_file_of_weights_is_as_good_as_the_run(name: str, tmp_path: Path) -> None:
    untrained_workdirs.save(get_config(name), tmp_path / 'run')
    pretrained.save(tmp_path / 'x.safetensors', pretrained.load(tmp_path / 'run'))
    encoder, expected = load_encoder(tmp_path / 'x.safetensors'), load_encoder(tmp_path / 'run')
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(encoder(images), expected(images))
    assert encoder.image_size == expected.image_size
    with pytest.raises(UserError, match='holds one network, and no target -> choose weights'):
        load_encoder(tmp_path / 'x.safetensors', 'target')


def test_a_file_describes_the_encoder_as_it_was_loaded(tmp_path: Path) -> None:
    """A file can hold an encoder for another image size, but not one whose features were changed."""
    untrained_workdirs.save(get_config('dino'), tmp_path / 'run')
    encoder = load_encoder(tmp_path / 'run').at_size(12)
    pretrained.save(tmp_path / 'x.safetensors', encoder)
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
    again = load_encoder(tmp_path / 'x.safetensors')
    assert (again.image_size, again.step, again.source) == (12, None, encoder.source)
    np.testing.assert_array_equal(again(images), encoder(images))
    untrained_workdirs.save(get_config('instdis'), tmp_path / 'instdis')
    for changed in (encoder.with_tokens(2), load_encoder(tmp_path / 'instdis', projector_layers=1).projected()):
        for write, name in ((pretrained.save, 'y.safetensors'), (export.write, 'y.pth')):
            with pytest.raises(UserError, match='changed by with_tokens or projected, which a file cannot describe'):
                write(tmp_path / name, changed)
    assert not list(tmp_path.glob('y.*'))


def test_views_of_arrays_are_saved_with_their_values(given: Path, tmp_path: Path) -> None:
    """safetensors alone would store the memory of a view, which has another order."""
    encoder = load_encoder(given)
    views = dataclasses.replace(encoder, params=jax.tree.map(np.asfortranarray, encoder.params))
    assert not all(x.flags.c_contiguous for x in views.flat.values())
    pretrained.save(tmp_path / 'views.safetensors', views)
    again = load_encoder(tmp_path / 'views.safetensors').flat
    assert all((again[name] == x).all() for name, x in encoder.flat.items())


def test_a_file_that_cannot_be_written(given: Path, tmp_path: Path) -> None:
    for write, name in ((pretrained.save, 'x.safetensors'), (export.write, 'x.pth'), (export.write, 'x.pkl')):
        with pytest.raises(UserError, match=f'cannot write .*missing/{name}: No such file'):
            write(tmp_path / 'missing' / name, load_encoder(given))


# ================================ layers of the projector ================================


@pytest.mark.parametrize('weights', ['online', 'target'])
def test_first_layers_of_the_projector(weights: str, tmp_path: Path) -> None:
    state = untrained_workdirs.save(get_config('simclrv2,memory'), tmp_path)
    encoder = load_encoder(tmp_path, weights, 2)
    params = state.params if weights == 'online' else state.method.target
    for held, found in (
        (params, encoder.projector_params),
        (state.method.batch_stats[weights], encoder.projector_stats),
    ):
        layers = {name: part for name, part in held['projector'].items() if not name.endswith('_2')}
        jax.tree.map(np.testing.assert_array_equal, found, layers)
    assert set(encoder.projector_params) == {'linear_0', 'bn_0', 'linear_1', 'bn_1'}
    jax.tree.map(np.testing.assert_array_equal, encoder.params, params['encoder'])
    assert load_encoder(tmp_path).projector_params == {}


def test_a_projector_that_has_not_so_many_layers(given: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'projector_layers 3: the projector of .* has 2 -> use 0 to 2'):
        load_encoder(given, projector_layers=3)
    untrained_workdirs.save(get_config('cmc'), tmp_path)
    with pytest.raises(UserError, match='is a Split, which cannot be loaded in part -> use 0 to 0'):
        load_encoder(tmp_path, projector_layers=1)
    pretrained.save(tmp_path / 'x.safetensors', pretrained.load(given))
    with pytest.raises(UserError, match=r'is a file of weights, which holds no projector -> give the workdir of a run'):
        load_encoder(tmp_path / 'x.safetensors', projector_layers=1)


# ================================ other features, other sizes ================================


def test_several_class_tokens(tmp_path: Path) -> None:
    """The class tokens of several blocks, computed with the weights of the run; a file of weights gives the same."""
    untrained_workdirs.save(get_config('dino'), tmp_path / 'run')
    pretrained.save(tmp_path / 'x.safetensors', pretrained.load(tmp_path / 'run'))
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    encoder = load_encoder(tmp_path / 'run')
    x = encoder.policy.normalize(images)
    before, last = encoder.module.apply(encoder.variables, x, 2, method='intermediate_layers')
    expected = np.concatenate([before[:, 0], last[:, 0], np.mean(last[:, 1:], axis=1)], axis=1)
    for given in (encoder, load_encoder(tmp_path / 'x.safetensors')):
        np.testing.assert_allclose(given.with_tokens(2, True)(images), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(given.with_tokens(2)(images), expected[:, :32], rtol=1e-4, atol=1e-5)
        assert given.with_tokens(1) is given
        with pytest.raises(UserError, match='the last 3 blocks: the ViT has 2 -> last_blocks=1 to 2'):
            given.with_tokens(3)


@pytest.mark.usefixtures('nothing_compiled')
def test_class_tokens_of_a_network_that_has_none(given: Path) -> None:
    for asked in ((4, False), (1, True)):
        with pytest.raises(UserError, match='resnet_tiny is not a ViT -> last_blocks=1'):
            load_encoder(given).with_tokens(*asked)


@pytest.mark.parametrize('name', ['mocov2', 'mocov3_vit', 'dino'])
def test_images_of_another_size(name: str, tmp_path: Path) -> None:
    """The features are those of the module on larger images, and the weights have the shapes for that size."""
    untrained_workdirs.save(get_config(name), tmp_path)
    encoder = load_encoder(tmp_path)
    larger = encoder.at_size(12)
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
    x = encoder.policy.normalize(images)
    expected = encoder.module.apply(encoder.variables, x, train=False)
    np.testing.assert_allclose(larger(images), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    made = jax.eval_shape(lambda: encoder.module.init(jax.random.key(0), x, train=False))
    assert jax.tree.map(lambda x: x.shape, made['params']) == jax.tree.map(lambda x: x.shape, larger.params)
    assert (encoder.image_size, larger.image_size) == (8, 12) and encoder.at_size(8) is encoder
    if 'patch_size' in encoder.config.encoder:
        with pytest.raises(
            UserError,
            match=r'images of 9 pixels for (vit|dino)_tiny: image size 9 is not divisible by patch_size .; use 8 or',
        ):
            encoder.at_size(9)
