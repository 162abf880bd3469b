"""Exported weights have the names that torchvision, timm and Detectron2 expect, and are the same bits when loaded."""

import dataclasses
import functools
import json
import pickle
import pickletools
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from contrastive_jax import convert as command
from contrastive_jax import pretrained
from contrastive_jax.augment.policy import Policy
from contrastive_jax.config.build import build_policy
from contrastive_jax.errors import UserError
from contrastive_jax.models.network import build_encoder
from contrastive_jax.models.positions import sincos_position
from contrastive_jax.pretrained import export, files, names, state_dicts, writers
from contrastive_jax.pretrained.assemble import assemble, shapes
from tests import untrained_workdirs
from tests.pretrained.encoders import assert_near, random_images
from tests.pretrained.encoders import random_encoder as random_networks
from tests.tiny_configs import get_config

OWN_PIXELS = Policy(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
VIT = {'width': 48, 'depth': 2, 'num_heads': 3, 'patch_size': 8}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    'resnet': {'name': 'resnet_tiny', 'width': 8, 'stem': 'imagenet'},
    'cifar': {'name': 'resnet_tiny', 'width': 8, 'stem': 'cifar'},
    'bottleneck': {'name': 'resnet50', 'stage_sizes': [1, 1, 1, 1], 'width': 8, 'stem': 'imagenet'},
    'mocov3': {'name': 'vit_small', **VIT},
    'conv': {'name': 'vit_conv_small', 'width': 32, 'depth': 2, 'num_heads': 2},
    'dino': {'name': 'dino_small', **VIT},
}


def random_encoder(architecture: dict[str, Any]) -> pretrained.Encoder:
    return made_once(json.dumps(architecture))


@functools.cache
def made_once(architecture: str) -> pretrained.Encoder:
    """An encoder of random weights, of an architecture given as JSON: its network is traced once for all tests."""
    rng, named = np.random.default_rng(0), json.loads(architecture)
    arrays = {name: rng.uniform(0.5, 1, shape) for name, shape in shapes(named, 32).items()}
    return assemble(named, arrays, 32, 'seed 0')


def assert_same(a: pretrained.Encoder, b: pretrained.Encoder) -> None:
    assert set(a.flat) == set(b.flat)
    for name, x in a.flat.items():
        np.testing.assert_array_equal(x, b.flat[name], err_msg=name)


def write_bare(path: Path, encoder: pretrained.Encoder) -> None:
    """A state dict without description, as another program saves it."""
    writers.write_torch(path, state_dicts.torch_state(encoder)[0])


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_our_file(tmp_path: Path, name: str) -> None:
    made = random_encoder(ARCHITECTURES[name])
    pretrained.save(tmp_path / 'x.safetensors', made)
    again = pretrained.load(tmp_path / 'x.safetensors')
    assert (again.architecture, again.image_size, again.source) == (made.architecture, 32, 'seed 0')
    assert again.module == made.module
    assert_same(made, again)
    with pytest.raises(UserError, match='describes its encoder itself -> give no further arguments'):
        pretrained.load(tmp_path / 'x.safetensors', form='moco')


@pytest.mark.parametrize('file', ['x.pth', 'x.pt', 'x.safetensors'])
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_round_trip_under_torch_s_names(tmp_path: Path, name: str, file: str) -> None:
    """The description beside the names of torch has the number of heads and the pixels, which weights do not tell."""
    made = dataclasses.replace(random_encoder(ARCHITECTURES[name]), policy=OWN_PIXELS)
    export.write(tmp_path / file, made, 'torch')
    again = pretrained.load(tmp_path / file)
    assert_same(made, again)
    assert (again.architecture, again.image_size, again.source) == (made.architecture, 32, 'seed 0')
    assert again.module == made.module and again.policy == OWN_PIXELS
    with pytest.raises(UserError, match='describes its encoder itself -> give no further arguments'):
        pretrained.load(tmp_path / file, pixels='half')


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_round_trip_without_description(tmp_path: Path, name: str) -> None:
    made = random_encoder(ARCHITECTURES[name])
    write_bare(tmp_path / 'x.pth', made)
    given = {} if 'resnet' in made.architecture['name'] else made.architecture  # the number of heads is not in the file
    again = pretrained.load(tmp_path / 'x.pth', encoder=given, pixels='imagenet')
    assert_same(made, again)
    if not given:
        assert again.module == made.module
    elif name != 'conv':
        assert again.image_size == 32


@pytest.mark.parametrize(
    'fields',
    [
        {'width': 96, 'depth': 6, 'num_heads': 3, 'patch_size': 4},
        {'width': 96, 'depth': 1, 'num_heads': 3, 'patch_size': 8, 'mlp_ratio': 2.5, 'qkv_bias': False},
        {'width': 128, 'depth': 1, 'num_heads': 2, 'patch_size': 8},
        {'width': 64, 'depth': 1, 'num_heads': 1, 'stem': 'conv'},
        {'width': 128, 'depth': 1, 'num_heads': 2, 'patch_size': 8, 'position': 'learned'},
    ],
)
def test_the_remedy_for_unknown_heads_works_word_for_word(tmp_path: Path, fields: dict[str, Any]) -> None:
    """Everything but the number of heads is in the shapes; the text of the message names it as it is in use mostly."""
    made = random_networks({'name': 'vit_tiny', **fields}, size=32)
    write_bare(tmp_path / 'x.pth', made)
    with pytest.raises(UserError, match='weights do not record its number of heads -> give encoder=') as error:
        pretrained.load(tmp_path / 'x.pth', pixels='imagenet')
    (remedy,) = re.findall(r'encoder=(\S+) if it has (?:\d+)', str(error.value))
    again, images = pretrained.load(tmp_path / 'x.pth', encoder=remedy, pixels='imagenet'), random_images(2, 32)
    np.testing.assert_array_equal(again.at_size(32)(images), made(images))


def test_the_remedies_for_a_small_vit_of_mocov3_work(tmp_path: Path) -> None:
    """Width 384 and depth 12 have 12 heads in MoCo v3 and 6 elsewhere; the patch size is in the shapes."""
    made = random_networks({'name': 'vit_small', 'patch_size': 8, 'num_heads': 6}, size=16)
    write_bare(tmp_path / 'x.pth', made)
    with pytest.raises(UserError, match='may be another ViT with 6 heads') as error:
        pretrained.load(tmp_path / 'x.pth', pixels='imagenet')
    twelve, six = re.findall(r'encoder=(\S+)', str(error.value))
    loaded = [pretrained.load(tmp_path / 'x.pth', encoder=remedy, pixels='imagenet') for remedy in (twelve, six)]
    assert [encoder.architecture.get('num_heads', 12) for encoder in loaded] == [12, 6]
    assert_same(loaded[1], made)
    assert loaded[1].module == made.module


def test_a_normalization_that_is_only_assumed_is_said(tmp_path: Path) -> None:
    """In Python as a warning; a file that records it, the choice of a user and a listener have none."""
    made = dataclasses.replace(random_encoder(ARCHITECTURES['cifar']), policy=OWN_PIXELS)
    export.write(tmp_path / 'ours.pth', made)
    write_bare(tmp_path / 'bare.pth', made)
    with pytest.warns(
        UserWarning, match=r'mean \(0.485, .* bare.pth does not record it -> give pixels=imagenet'
    ) as said:
        assert pretrained.load(tmp_path / 'bare.pth').policy != OWN_PIXELS
    assert len(said) == 1 and '\n' not in str(said[0].message) and said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert pretrained.load(tmp_path / 'ours.pth').policy == OWN_PIXELS
        pretrained.load(tmp_path / 'bare.pth', pixels='imagenet')
        lines: list[str] = []
        pretrained.load(tmp_path / 'bare.pth', say=lines.append)
    assert lines[-1] == str(said[0].message)


@pytest.mark.parametrize('text', ['', '[]', '[' * 10**5, '{"encoder": "{}"}', '\x00'])
def test_a_damaged_description_beside_a_state_dict_is_one_line(tmp_path: Path, text: str) -> None:
    state = state_dicts.state_dict(random_encoder(ARCHITECTURES['cifar']))
    writers.write_torch(tmp_path / 'x.pth', state, {'contrastive_jax': text})
    with pytest.raises(UserError, match=r'the description of the encoder in .*x.pth is wrong') as error:
        pretrained.load(tmp_path / 'x.pth')
    assert '\n' not in str(error.value)


def test_torch_loads_a_file_with_a_description(tmp_path: Path) -> None:
    """Strictly, also mapped into memory; a file that torch saves again has no description."""
    torch = pytest.importorskip('torch')
    made = random_encoder(ARCHITECTURES['bottleneck'])
    export.write(tmp_path / 'x.pth', made)
    for options in ({}, {'mmap': True}):
        held = torch.load(tmp_path / 'x.pth', weights_only=True, **options)
        assert list(held) == list(state_dicts.state_dict(made))
        for name, x in state_dicts.state_dict(made).items():
            np.testing.assert_array_equal(held[name].numpy(), x)
    torch.save(held, tmp_path / 'again.pth')
    with pytest.warns(UserWarning, match='again.pth does not record it'):
        assert_same(pretrained.load(tmp_path / 'again.pth'), made)


def test_names_and_layouts_of_torchvision() -> None:
    made = random_encoder(ARCHITECTURES['bottleneck'])
    state, notes = state_dicts.torch_state(made)
    block = {'conv1.weight': (8, 32, 1, 1), 'conv2.weight': (8, 8, 3, 3), 'conv3.weight': (32, 8, 1, 1)}
    block |= {f'bn1.{leaf}': (8,) for leaf in ('weight', 'bias', 'running_mean', 'running_var')}
    block['bn1.num_batches_tracked'] = ()
    block['downsample.0.weight'] = (32, 8, 1, 1)
    block['downsample.1.running_var'] = (32,)
    block['conv1.weight'] = (8, 8, 1, 1)
    for name, shape in block.items():
        assert state[f'layer1.0.{name}'].shape == shape, name
    assert state['conv1.weight'].shape == (8, 3, 7, 7)
    kernel = made.variables['params']['conv1']['kernel']
    assert state['conv1.weight'][2, 1, 5, 6] == kernel[5, 6, 1, 2]
    assert state['bn1.num_batches_tracked'].dtype == np.int64
    norms = sum(name.endswith('running_var') for name in state)
    assert len(state) == len(made.flat) + norms
    assert len(notes) == 1 and notes[0].startswith("torchvision's ResNet has no arguments for 8 channels in its stem")


def test_names_and_layouts_of_timm() -> None:
    made = random_encoder(ARCHITECTURES['mocov3'])
    state, notes = state_dicts.torch_state(made)
    params = made.variables['params']
    assert state['patch_embed.proj.weight'][3, 2, 5, 7] == params['patch_embed']['proj']['kernel'][5, 7, 2, 3]
    qkv = state['blocks.1.attn.qkv.weight']
    assert qkv.shape == (144, 48)
    assert qkv[100, 7] == params['blocks_1']['attn']['qkv']['kernel'][7, 100]
    assert state['blocks.0.mlp.fc1.weight'].shape == (192, 48)
    assert {'cls_token', 'norm.weight', 'norm.bias', 'blocks.0.norm2.bias', 'blocks.0.attn.proj.bias'} < set(state)
    np.testing.assert_array_equal(state['pos_embed'][0], sincos_position(4, 4, 48).astype(np.float32))
    assert notes == ['timm: num_classes=0, num_heads=3, img_size=32']
    dino, _ = state_dicts.torch_state(random_encoder(ARCHITECTURES['dino']))
    assert set(dino) == set(state)


def test_the_pth_is_what_torch_load_reads_as_weights_only(tmp_path: Path) -> None:
    """The pickle has only names that torch's restricted unpickler allows, and the members of torch.save."""
    export.write(tmp_path / 'x.pth', random_encoder(ARCHITECTURES['resnet']))
    with zipfile.ZipFile(tmp_path / 'x.pth') as archive:
        members = archive.namelist()
        program = archive.read('archive/data.pkl')
    assert {'archive/data.pkl', 'archive/byteorder', 'archive/version', 'archive/data/0'} < set(members)
    asked = {str(argument) for opcode, argument, _ in pickletools.genops(program) if opcode.name == 'GLOBAL'}
    assert asked == {
        'collections OrderedDict', 'torch._utils _rebuild_tensor_v2', 'torch FloatStorage', 'torch LongStorage',
    }  # fmt: skip


def test_detectron2(tmp_path: Path) -> None:
    made = random_encoder(ARCHITECTURES['bottleneck'])
    said: list[str] = []
    export.write(tmp_path / 'x.pkl', made, say=said.append)
    assert b'numpy.core.multiarray' in (tmp_path / 'x.pkl').read_bytes(), 'the name that numpy 1 and 2 know'
    held = pickle.loads((tmp_path / 'x.pkl').read_bytes())
    assert (held['__author__'], held['matching_heuristics']) == ('contrastive_jax', True)
    model, params = held['model'], made.variables['params']
    np.testing.assert_array_equal(model['stem.conv1.weight'], params['conv1']['kernel'].transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(model['stem.conv1.norm.weight'], params['bn1']['scale'])
    statistics = made.variables['batch_stats']['layer2_0']
    np.testing.assert_array_equal(model['res3.0.conv2.norm.running_var'], statistics['bn2']['var'])
    np.testing.assert_array_equal(model['res3.0.shortcut.norm.running_mean'], statistics['downsample_bn']['mean'])
    assert model['res5.0.shortcut.weight'].dtype == np.float32
    assert len(model) == len(made.flat)
    assert any('STRIDE_IN_1X1 False' in line for line in said)
    with pytest.raises(UserError, match='is not a ResNet, the only encoder that Detectron2 can load'):
        export.write(tmp_path / 'y.pkl', random_encoder(ARCHITECTURES['dino']))


@pytest.mark.parametrize(
    ('config', 'line'),
    [
        ({'name': 'resnet_tiny', 'padding': 'same'}, "has padding 'same', unlike torchvision's ResNets"),
        ({'name': 'resnet50', 'stage_sizes': [1], 'width': 8, 'sk_ratio': 0.0625}, 'has selective kernels'),
        (
            {'name': 'resnet_tiny', 'width': 4, 'input_channels': 1},
            "has input_channels 1, unlike torchvision's ResNets",
        ),
        ({'name': 'split_resnet_tiny', 'width': 4}, 'split_resnet_tiny has no counterpart in torchvision or timm'),
        ({'name': 'cpc_tiny', 'patch_size': 16, 'patch_stride': 8}, 'cpc_tiny has no counterpart'),
    ],
)
def test_what_torchvision_does_not_have(config: dict[str, Any], line: str, tmp_path: Path) -> None:
    made = random_encoder(config)
    with pytest.raises(UserError, match=line):
        state_dicts.torch_state(made)
    pretrained.save(tmp_path / 'x.safetensors', made)
    assert_same(pretrained.load(tmp_path / 'x.safetensors'), made)


def test_notes() -> None:
    """Everything that differs from torchvision's class, and whether its arguments can follow."""
    _, (note,) = state_dicts.torch_state(random_encoder({**ARCHITECTURES['cifar'], 'bn_epsilon': 1e-3}))
    for what in (
        'no arguments for 8 channels in its stem, 8 channels in its first stage; it also has',
        'a 3x3 convolution of stride 1 in its stem, no max-pool, batch norms with eps=0.001, 1 + 1 + 1 + 1 blocks',
        '-> convert to a .py file',
    ):
        assert what in note
    for architecture in ({'stage_sizes': [1, 1]}, {'stage_sizes': [1, 1, 1, 1], 'stem_width': 32}):
        _, (note,) = state_dicts.torch_state(random_encoder({'name': 'resnet18', **architecture}))
        assert 'no arguments for' in note and '-> convert to a .py file' in note
    for name in ('resnet18', 'resnet50'):
        fitting = state_dicts._notes_on_resnet(name, build_encoder({'name': name, 'stem': 'imagenet'}))
        assert fitting == ['torchvision: set model.fc = torch.nn.Identity()']


@pytest.mark.parametrize('block', ['basic', 'bottleneck'])
def test_torchvision_s_class_is_changed_as_the_note_says(tmp_path: Path, block: str) -> None:
    torch, torchvision = pytest.importorskip('torch'), pytest.importorskip('torchvision')
    name = {'basic': 'resnet18', 'bottleneck': 'resnet50'}[block]
    encoder = random_networks({'name': name, 'stage_sizes': [1, 1, 1, 1], 'stem': 'cifar'})
    said: list[str] = []
    export.write(tmp_path / 'x.pth', encoder, say=said.append)
    (constructor,) = re.findall(r'from (torchvision\.models\.ResNet\(.*?\]\)), or', '\n'.join(said))
    assert 'a 3x3 convolution of stride 1 in its stem, no max-pool, 1 + 1 + 1 + 1 blocks in its stages' in said[1]
    model = eval(constructor, {'torchvision': torchvision})
    model.fc, model.maxpool = torch.nn.Identity(), torch.nn.Identity()
    model.conv1 = torch.nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    model.load_state_dict(torch.load(tmp_path / 'x.pth', weights_only=True), strict=True)
    images = random_images(2, 32)
    x = np.asarray(encoder.policy.normalize(images)).transpose(0, 3, 1, 2).copy()
    with torch.no_grad():
        assert_near(model.eval()(torch.from_numpy(x)).numpy(), encoder(images), 1e-4)


@pytest.mark.parametrize('change', ['encoder', 'size', 'pixels', 'color', 'missing', 'another'])
def test_a_file_of_ours_that_is_not_what_it_says(tmp_path: Path, change: str) -> None:
    path = tmp_path / 'x.safetensors'
    pretrained.save(path, random_encoder(ARCHITECTURES['resnet']))
    arrays = load_file(path)
    with safe_open(path, framework='numpy') as file:
        about = dict(file.metadata())
    if change == 'encoder':
        about['encoder'] = '[]'
    elif change == 'size':
        about['image_size'] = str(2**40)
    elif change == 'pixels':
        del about['pixels']
    elif change == 'color':
        about['pixels'] = about['pixels'].replace('rgb', 'cmyk')
    elif change == 'missing':
        del arrays['params/conv1/kernel']
    else:
        about['encoder'] = json.dumps({'name': 'resnet18'})
    save_file(arrays, path, metadata=about)
    with pytest.raises(UserError, match=r'the description of the encoder in .* is wrong|is missing|instead of'):
        pretrained.load(path)


def test_a_file_does_not_decide_which_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with an encoder of the user's own imports its module only if the user names the class."""
    (tmp_path / 'own_net.py').write_text(
        'from pathlib import Path\n'
        'from contrastive_jax.models.resnet import ResNet as Net\n'
        "Path(__file__).with_name('canary').touch()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    file, fields = tmp_path / 'x.safetensors', {'stage_sizes': [1, 1], 'block': 'basic', 'width': 4}
    made = assemble(
        {'name': 'contrastive_jax.models.resnet:ResNet', **fields},
        {path: np.ones(shape) for path, shape in shapes({'name': 'resnet18', **fields}, 32).items()},
        32,
        'ones',
    )
    pretrained.save(file, dataclasses.replace(made, architecture={'name': 'own_net:Net', **fields}))
    for given in ('', 'own_net:Other', 'resnet18'):
        with pytest.raises(UserError, match='is the class own_net:Net, and a file must not decide which code runs -> '):
            pretrained.load(file, encoder=given)
    assert not (tmp_path / 'canary').exists()
    assert_same(pretrained.load(file, encoder='own_net:Net'), made)
    assert (tmp_path / 'canary').exists()
    assert_same(pretrained.load(file), made)  # the user has imported the module
    monkeypatch.delitem(sys.modules, 'own_net')


def test_bfloat16_and_float16_become_float32(tmp_path: Path) -> None:
    made = random_encoder(ARCHITECTURES['resnet'])
    state, _ = state_dicts.torch_state(made)
    for dtype in (jnp.bfloat16, np.float16, np.float64):
        half = {name: x.astype(dtype) if x.ndim else x for name, x in state.items()}
        for file in ('x.safetensors', 'x.npz'):
            if file == 'x.npz' and dtype == jnp.bfloat16:
                continue  # numpy's files cannot hold bfloat16
            path = tmp_path / file
            save_file({n: np.ascontiguousarray(x) for n, x in half.items()}, path) if file.endswith('s') else np.savez(
                path, **half
            )
            again = pretrained.load(path)
            assert again.flat['params/conv1/kernel'].dtype == np.float32
            expected = np.asarray(made.flat['params/conv1/kernel'].astype(dtype), np.float32)
            np.testing.assert_array_equal(again.flat['params/conv1/kernel'], expected)


# ================================ the command ================================


def run(*args: str | Path) -> int:
    return command.main([str(arg) for arg in args])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = random_encoder(ARCHITECTURES['bottleneck'])
    write_bare(tmp_path / 'in.pth', made)
    assert run(tmp_path / 'in.pth', tmp_path / 'ours.safetensors') == 0
    out = capsys.readouterr().out
    assert (
        "format: a state dict under torchvision's or timm's names (form=plain)" in out
        and 'parameters' in out
        and 'wrote' in out
    )
    for target in ('a.pth', 'b.pkl'):
        assert run(tmp_path / 'ours.safetensors', tmp_path / target) == 0
    assert run(tmp_path / 'ours.safetensors', tmp_path / 'c.safetensors', '--names=torch') == 0
    for file in ('a.pth', 'c.safetensors'):
        assert_same(pretrained.load(tmp_path / file), made)
    assert set(load_file(tmp_path / 'c.safetensors')) == set(files.read(tmp_path / 'a.pth').content)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'a.pth', 'b.pkl', 'c.safetensors', 'in.pth', 'ours.safetensors',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('args', 'line'),
    [
        (['nothing.pth', 'x.safetensors'], 'nothing.pth does not exist -> give the workdir of a run, or a file'),
        (['in.pth', 'x.h5'], r'x.h5 ends in .h5 -> choose from .safetensors, .pth'),
        (['in.pth', 'x/', '--names=ours'], "names 'ours' cannot be written to a folder -> choose from timm, transf"),
        (['in.pth', 'my-net.py'], 'my-net.py cannot be imported by Python -> name it with letters, digits and _ only'),
        (['in.pth', 'torch.py'], 'torch.py would hide the module torch of Python or torch -> choose another name'),
        (['in.pth', 'x.tar', '--names=torch'], 'ends in .tar'),
        (['in.pth', 'x.pth', '--names=ours'], "names 'ours' cannot be written to .pth files -> choose from torch"),
        (['in.pth', 'missing/x.pth'], 'cannot write .*missing/x.pth: No such file'),
        (['in.pth', 'x.pth', '--encoder=resnet50'], r'does not match the encoder resnet50: .*and \d+ more'),
        (['in.pth', 'x.pth', '--encoder=resnet51'], "did you mean 'resnet50'"),
        (['in.pth', 'x.pth', '--form=moco'], 'is not a moco checkpoint'),
    ],
)
def test_command_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bare(tmp_path / 'in.pth', random_encoder(ARCHITECTURES['resnet']))
    assert run(*args) == 2
    error = capsys.readouterr().err
    assert error.startswith('contrastive_jax: error: ') and error.count('\n') == 1
    assert re.search(line, error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.pth']


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('name', ['mocov2', 'mocov3_vit', 'simclr', 'cmc'])
def test_the_encoder_of_a_run(tmp_path: Path, name: str) -> None:
    state = untrained_workdirs.save(get_config(name), tmp_path / 'run')
    assert run(tmp_path / 'run', tmp_path / 'x.safetensors') == 0
    made = pretrained.load(tmp_path / 'x.safetensors')
    expected = {'params': state.params['encoder']}
    if stats := state.method.batch_stats['online'].get('encoder'):
        expected['batch_stats'] = stats
    assert jax.tree.structure(made.variables) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, made.variables, expected)
    assert made.image_size == 8 and 'step 3' in made.source
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    pixels = build_policy(get_config(name)).normalize(images)
    np.testing.assert_array_equal(made.policy.normalize(images), pixels)
    assert run(tmp_path / 'run', tmp_path / 'x.pth') == (2 if name == 'cmc' else 0)
    of_run = pretrained.load(tmp_path / 'run')
    assert (of_run.workdir, of_run.weights, of_run.step) == (tmp_path / 'run', 'online', 3)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_the_target_of_a_run(tmp_path: Path) -> None:
    state = untrained_workdirs.save(get_config('mocov2'), tmp_path / 'run')
    assert run(tmp_path / 'run', tmp_path / 'x.safetensors', '--weights=target') == 0
    variables = pretrained.load(tmp_path / 'x.safetensors').variables
    jax.tree.map(np.testing.assert_array_equal, variables['params'], state.method.target['encoder'])
    assert run(tmp_path / 'x.safetensors', tmp_path / 'y.pth', '--weights=target') == 2
    assert run(tmp_path, tmp_path / 'y.pth') == 2  # a folder that is not a workdir


def test_command_needs_no_torch() -> None:
    code = 'import sys; import contrastive_jax.convert; print("torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'False'


def test_features_survive(tmp_path: Path) -> None:
    made = random_encoder(ARCHITECTURES['dino'])
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    export.write(tmp_path / 'x.pth', made)
    again = pretrained.load(tmp_path / 'x.pth')
    h, h_again = (encoder.module.apply(encoder.variables, x, train=False) for encoder in (made, again))
    np.testing.assert_array_equal(h, h_again)


def test_names_are_one_to_one() -> None:
    for config in ARCHITECTURES.values():
        paths = shapes(config, 32)
        assert len(set(names.torch_names(paths).values())) == len(paths)


def test_a_file_is_not_replaced_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever its path looks like."""
    file = tmp_path / 'x.pth'
    file.write_bytes(b'weights of somebody')
    (tmp_path / 'link.pth').symlink_to(file)
    for out in (file, tmp_path / '.' / 'x.pth', tmp_path / 'link.pth'):
        assert command.main([str(file), str(out)]) == 2
        assert 'is the file IN, which would be lost -> choose another OUT' in capsys.readouterr().err
    assert file.read_bytes() == b'weights of somebody'
