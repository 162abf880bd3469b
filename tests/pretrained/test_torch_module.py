"""A PyTorch module that is written gives our features, with torch and nothing else."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contrastive_jax import convert as command
from contrastive_jax import pretrained
from contrastive_jax.augment.policy import Policy
from contrastive_jax.methods import colorization
from contrastive_jax.pretrained import files, pixels, state_dicts
from tests.pretrained.encoders import STAGES, VIT, assert_near, documented_code, random_encoder, random_images

SK = {'name': 'resnet50', **STAGES, 'padding': 'simclr', 'sk_ratio': 0.0625}
YCBCR = {'color_space': 'ycbcr', 'mean': (116.0, 122.0, 131.0), 'std': (55.0, 25.0, 20.0)}
# name -> (the encoder, its normalization, the size of its images)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    'cifar': ({'name': 'resnet_tiny', 'width': 8}, pixels.NORMALIZATIONS['unit'], 8),
    'solo-learn': (
        {'name': 'resnet18', **STAGES, 'stem': 'cifar', 'stem_padding': 2, 'stem_pool': True, 'bn_epsilon': 1e-3},
        {},
        15,
    ),
    'lightly': ({'name': 'resnet18', **STAGES, 'stem_stride': 1, 'stem_pool': False, 'stem_relu': False}, {}, 16),
    'byol': ({'name': 'resnet50', **STAGES, 'padding': 'same'}, {}, 30),
    'wide': ({'name': 'resnet50', **STAGES, 'width_multiplier': 2, 'stem_width': 12, 'padding': 'simclr'}, {}, 33),
    'selective': (SK, pixels.NORMALIZATIONS['unit'], 31),
    'cmc': ({'name': 'split_resnet_tiny', 'width': 4}, pixels.NORMALIZATIONS['lab'], 16),
    'colorization': (
        {'name': 'resnet_tiny', 'width': 4, 'input_channels': 1},
        {'color_space': 'lab', 'mean': colorization.MEAN, 'std': colorization.STD},
        16,
    ),
    'ycbcr': ({'name': 'split_resnet18', **STAGES}, YCBCR, 32),
    'mocov3': ({'name': 'vit_small', **VIT}, pixels.NORMALIZATIONS['half'], 32),
    'dino': ({'name': 'dino_small', **VIT, 'qkv_bias': False, 'mlp_ratio': 2.0, 'layer_norm_epsilon': 1e-5}, {}, 24),
    'conv': ({'name': 'vit_conv_small', 'width': 32, 'depth': 1, 'num_heads': 2}, {}, 32),
    'cpc': ({'name': 'cpc_tiny', 'patch_size': 8, 'patch_stride': 4, 'stem': 'cifar'}, {}, 16),
    'cpc v1': ({'name': 'cpc_tiny', 'patch_size': 16, 'patch_stride': 8, 'norm': 'none'}, {}, 32),
}


def made(name: str) -> pretrained.Encoder:
    architecture, policy, size = CASES[name]
    return random_encoder(architecture, Policy(**policy), size)


def imported(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('name', CASES)
def test_features(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip('torch')
    encoder = made(name)
    pretrained.write(tmp_path / 'net.py', encoder)
    net = imported(tmp_path / 'net.py')
    theirs = net.load()
    assert not theirs.training
    images = random_images(5, encoder.image_size)
    given = torch.from_numpy(images.transpose(0, 3, 1, 2))
    with torch.no_grad():
        h, h_float = theirs(given), theirs(given.float() / 255)
    assert_near(h, encoder(images), 1e-5)
    assert_near(h_float, h, 1e-6)
    assert f'float32[n, {h.shape[1]}]' in net.__doc__


def test_it_is_trained_further_and_says_what_is_wrong(tmp_path: Path) -> None:
    torch = pytest.importorskip('torch')
    pretrained.write(tmp_path / 'net.py', made('mocov3'))
    net = imported(tmp_path / 'net.py')
    encoder = net.load().train()
    encoder(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert encoder.network.blocks[0].attn.qkv.weight.grad is not None
    assert encoder.network.pos_embed.grad is None  # fixed
    for wrong, line in (
        (torch.zeros(1, 32, 32, 3), r'images have the shape \(1, 32, 32, 3\); give \[n, 3, H, W\]'),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int32), 'images are torch.int32; give uint8'),
        (torch.zeros(1, 3, 24, 24), r'images of \(24, 24\) pixels: the positions are for 32 x 32'),
    ):
        with pytest.raises(ValueError, match=line):
            encoder(wrong)
    other = tmp_path / 'other.pth'
    torch.save({'conv1.weight': torch.zeros(1)}, other)
    with pytest.raises(RuntimeError, match='Missing key'):
        net.load(other)


@pytest.mark.parametrize('name', ['cifar', 'cmc', 'conv', 'cpc v1'])
def test_the_files(tmp_path: Path, name: str) -> None:
    """Valid code that imports torch alone, the shape of the network as JSON, and the weights under torch's names."""
    encoder = made(name)
    pretrained.write(tmp_path / 'net.py', encoder)
    assert sorted(file.name for file in tmp_path.iterdir()) == ['net.py', 'net_weights.pth']
    tree = ast.parse((tmp_path / 'net.py').read_text(encoding='utf-8'))
    modules = {name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names}
    modules |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert modules == {'json', 'pathlib', 'torch', 'torch.nn.functional'}
    (text,) = (node.value.args[0].value for node in tree.body  # type: ignore[attr-defined]
               if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'CONFIG')  # fmt: skip
    config = json.loads(text)
    assert (config['encoder'], config['source'], config['image_size']) == (
        encoder.architecture,
        'seed 0',
        encoder.image_size,
    )
    assert config['mean'] == list(encoder.policy.mean)
    assert 'net.load()\n    h = encoder(images)  # uint8[n, 3, ' in (ast.get_docstring(tree) or '')
    held, expected = files.read(tmp_path / 'net_weights.pth'), state_dicts.state_dict(encoder)
    assert set(held.content) == set(expected)
    for key, leaf in held.content.items():
        np.testing.assert_array_equal(held.array(leaf), expected[key])
    format_check = [sys.executable, '-m', 'ruff', 'format', '--check', '--isolated', '--line-length=120', str(tmp_path)]
    if importlib.util.find_spec('ruff'):
        subprocess.run(format_check, check=True, capture_output=True)


def test_names_of_the_networks_without_a_twin() -> None:
    cpc, cmc = (state_dicts.state_dict(made(name)) for name in ('cpc v1', 'cmc'))
    assert {'layer1.0.gain', 'layer2.0.downsample.0.weight', 'layer1.0.conv3.weight'} < set(cpc)
    assert {'l_to_ab.conv1.weight', 'ab_to_l.layer4.0.downsample.1.running_var'} < set(cmc)
    assert cmc['l_to_ab.conv1.weight'].shape == (4, 1, 3, 3) and cmc['ab_to_l.conv1.weight'].shape == (4, 2, 3, 3)
    assert {'layer1.0.sk2.mix_conv.weight', 'conv3.weight'} < set(state_dicts.state_dict(made('selective')))


def test_no_file_of_the_user_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even the weights beside the file, which the command line does not name."""
    weights = tmp_path / 'net_weights.pth'
    pretrained.write(weights, random_encoder({'name': 'resnet_tiny', 'width': 8}))
    before = weights.read_bytes()
    assert command.main([str(weights), str(tmp_path / 'net.py')]) == 2
    assert 'is the file IN, which would be lost' in capsys.readouterr().err
    assert weights.read_bytes() == before


def test_the_code_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip('torch')
    encoder, images = made('cifar'), random_images(3, 8)
    pretrained.write(tmp_path / 'digits.py', encoder)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, Any] = {'images': torch.from_numpy(images.transpose(0, 3, 1, 2))}
    (code,) = (code for code in documented_code() if 'import digits' in code)
    exec(code, names)
    assert_near(names['h'], encoder(images), 1e-5)
