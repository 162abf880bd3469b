"""Folders in the layout of the Hugging Face Hub: timm and transformers load them, and give our features."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from contrastive_jax import convert as command
from contrastive_jax import pretrained
from contrastive_jax.augment.policy import Policy
from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import model_card, pixels, timm_model
from tests.pretrained.encoders import VIT, assert_near, documented_code, random_encoder, random_images
from tests.tiny_configs import get_config

SMALL = {'stage_sizes': [1, 2, 1, 1], 'stem_width': 64, 'stem': 'imagenet'}
ENCODERS: dict[str, dict[str, Any]] = {
    'basic': {'name': 'resnet18', **SMALL, 'width': 8},
    'bottleneck': {'name': 'resnet50', **SMALL, 'width': 16},
    'mocov3': {'name': 'vit_small', **VIT, 'num_heads': 6},
    'dino': {'name': 'dino_small', **VIT, 'mlp_ratio': 3.0, 'qkv_bias': False},
}
# Of no library: what it is, and what is said.
OTHERS: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({'name': 'resnet_tiny', 'width': 8}, 'timm', 'a 3x3 convolution of stride 1 in its stem, no max-pool, 8 channels'),
    (
        {'name': 'resnet_tiny', 'width': 8},
        'transformers',
        'no max-pool, unlike those of transformers -> write a .py file',
    ),
    ({'name': 'resnet18', **SMALL, 'stage_sizes': [1, 1]}, 'timm', "2 stages, unlike timm's"),
    ({'name': 'resnet18', **SMALL, 'bn_epsilon': 1e-3}, 'timm', 'batch norms with eps=0.001'),
    (
        {'name': 'vit_conv_small', 'width': 32, 'depth': 1, 'num_heads': 2},
        'timm',
        "no ViT with MoCo v3's convolutional",
    ),
    ({'name': 'vit_conv_small', 'width': 32, 'depth': 1, 'num_heads': 2}, 'transformers', 'has no ViT with MoCo'),
    (
        {'name': 'dino_small', **VIT, 'layer_norm_epsilon': 1e-12},
        'timm',
        'eps=1e-12, and timm.s have 1e-06 -> choose nam',
    ),
    ({'name': 'cpc_tiny', 'patch_size': 16, 'patch_stride': 8}, 'timm', 'timm has no cpc_tiny -> write a .py file'),
)


def made(name: str) -> pretrained.Encoder:
    return random_encoder(ENCODERS[name], Policy(**pixels.NORMALIZATIONS['half'], interpolation='bicubic'))


def normalized(encoder: pretrained.Encoder, images: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.asarray(encoder.policy.normalize(images)).transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize(
    ('name', 'library'),
    [('basic', 'timm'), ('bottleneck', 'transformers'), ('mocov3', 'transformers'), ('dino', 'timm')],
)
def test_the_folder_is_read_back(tmp_path: Path, name: str, library: str) -> None:
    encoder = made(name)
    pretrained.write(tmp_path / 'net', encoder, library)
    again = pretrained.load(tmp_path / 'net')
    assert (again.architecture, again.image_size, again.source) == (encoder.architecture, 32, 'seed 0')
    assert pixels.fields(again.policy) == pixels.fields(encoder.policy)
    assert set(again.flat) == set(encoder.flat)
    for path, x in encoder.flat.items():
        np.testing.assert_array_equal(again.flat[path], x, err_msg=path)


@pytest.mark.parametrize(
    ('size', 'line'),
    [
        (
            32,
            'Images of 3 channels (RGB): short side resized to 32, center crop of 32 pixels, bicubic; values in [0, 1]',
        ),
        (224, 'Images of 3 channels (RGB): short side resized to 256, center crop of 224 pixels, bicubic; values'),
    ],
)
def test_the_card_says_the_input(size: int, line: str) -> None:
    assert line in model_card.text(dataclasses.replace(made('basic'), image_size=size), 'net', 'timm')


@pytest.mark.parametrize('name', ENCODERS)
def test_timm(tmp_path: Path, name: str) -> None:
    torch, timm = pytest.importorskip('torch'), pytest.importorskip('timm')
    encoder, images = made(name), random_images(3, 32)
    pretrained.write(tmp_path / 'net', encoder)
    model = timm.create_model(f'local-dir:{tmp_path / "net"}', pretrained=True).eval()
    with torch.no_grad():
        assert_near(model(normalized(encoder, images)), encoder(images), 1e-5)
    data = timm.data.resolve_model_data_config(model)
    assert (*data['input_size'], *data['mean']) == (3, 32, 32, 0.5, 0.5, 0.5)
    assert (data['crop_pct'], data['interpolation']) == (1.0, 'bicubic')
    h = model(timm.data.create_transform(**data)(Image.fromarray(images[0]))[None])
    assert_near(torch.cat([h, h * 0]).detach(), np.stack([encoder(images)[0], 0 * encoder(images)[0]]), 1e-5)
    assert timm.create_model(f'local-dir:{tmp_path / "net"}', pretrained=True, num_classes=7).num_classes == 7


@pytest.mark.parametrize('library', ['transformers', 'timm'])
@pytest.mark.parametrize('name', ENCODERS)
def test_transformers(tmp_path: Path, name: str, library: str) -> None:
    torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
    if library == 'timm':
        pytest.importorskip('timm')
    encoder, images = made(name), random_images(3, 32)
    pretrained.write(tmp_path / 'net', encoder, library)
    model, loaded = transformers.AutoModel.from_pretrained(tmp_path / 'net', output_loading_info=True)
    assert not any(loaded[kind] for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    with torch.no_grad():
        output = model.eval()(normalized(encoder, images))
    assert_near(output.pooler_output.flatten(1), encoder(images), 1e-5)
    if 'resnet' not in encoder.architecture['name']:
        assert_near(output.last_hidden_state[:, 0], encoder(images), 1e-5)
    if library == 'transformers':
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / 'net')
        given = processor([Image.fromarray(image) for image in images], return_tensors='pt')['pixel_values']
        assert_near(given.flatten(1), normalized(encoder, images).flatten(1), 1e-5)


def test_the_code_of_the_documentation(tmp_path: Path) -> None:
    torch, timm = pytest.importorskip('torch'), pytest.importorskip('timm')
    transformers = pytest.importorskip('transformers')
    encoder, image = made('bottleneck'), random_images(1, 32)
    pretrained.write(tmp_path / 'hub/r50', encoder)
    pretrained.write(tmp_path / 'hub/r50_hf', encoder, 'transformers')
    names = {**vars(transformers), 'timm': timm, 'image': Image.fromarray(image[0])}
    with contextlib.chdir(tmp_path), torch.no_grad():
        of_timm, of_transformers = (code for code in documented_code() if 'hub/r50' in code)
        exec(of_timm, names)
        h = names['model'](names['transform'](names['image'])[None])
        exec(of_transformers, names)
    expected = np.asarray(encoder(image))
    for found in (h, names['h']):
        assert np.abs(found.numpy() - expected).max() <= 1e-5 * expected.max()


def test_config_of_timm(tmp_path: Path) -> None:
    pretrained.write(tmp_path / 'vit', made('mocov3'))
    config = json.loads((tmp_path / 'vit' / 'config.json').read_text())
    arguments = {'img_size': 32, 'patch_size': 8, 'embed_dim': 48, 'depth': 2, 'num_heads': 6, 'mlp_ratio': 4.0}
    assert config['model_args'] == {**arguments, 'qkv_bias': True}
    assert (config['num_features'], config['num_classes'], config['global_pool']) == (48, 0, 'token')
    assert config['pretrained_cfg']['input_size'] == [3, 32, 32] and config['pretrained_cfg']['fixed_input_size']
    held = load_file(tmp_path / 'vit' / 'model.safetensors')
    assert held['blocks.1.attn.qkv.weight'].shape == (144, 48)
    config = timm_model.config(random_encoder({'name': 'resnet18'}, size=224))
    assert (config['architecture'], 'model_args' in config, config['num_features']) == ('resnet18', False, 512)
    assert config['pretrained_cfg']['crop_pct'] == 0.875


def test_files_of_transformers(tmp_path: Path) -> None:
    pretrained.write(tmp_path / 'vit', made('dino'), 'transformers')
    config, processor = (
        json.loads((tmp_path / 'vit' / name).read_text()) for name in ('config.json', 'preprocessor_config.json')
    )
    assert (config['model_type'], config['intermediate_size'], config['qkv_bias']) == ('vit', 144, False)
    assert processor['size'] == {'shortest_edge': 32} and processor['crop_size'] == {'height': 32, 'width': 32}
    assert (processor['resample'], processor['image_mean']) == (3, [0.5, 0.5, 0.5])
    held = load_file(tmp_path / 'vit' / 'model.safetensors')
    assert held['encoder.layer.1.attention.attention.key.weight'].shape == (48, 48)
    np.testing.assert_array_equal(held['pooler.dense.weight'], np.eye(48))


@pytest.mark.parametrize(('architecture', 'library', 'line'), OTHERS)
def test_what_a_library_does_not_have(tmp_path: Path, architecture: dict[str, Any], library: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        pretrained.write(tmp_path / 'net', random_encoder(architecture), library)
    assert not list(tmp_path.iterdir())


def test_color_spaces(tmp_path: Path) -> None:
    lab = random_encoder({'name': 'resnet18', **SMALL}, Policy(**pixels.NORMALIZATIONS['lab']))
    with pytest.raises(UserError, match='takes images in lab, to which timm does not convert them'):
        pretrained.write(tmp_path / 'net/', lab)


# ================================ the command, and the model card ================================


@pytest.fixture
def run(tmp_path: Path) -> pretrained.Encoder:
    """The encoder of step 3 of a run, whose workdir has what training writes."""
    workdir = tmp_path / 'runs' / 'mine'
    workdir.mkdir(parents=True)
    before = {'baseline/knn_top1': 0.5, 'baseline/probe_top1': 0.55, 'baseline/pixels_knn_top1': 0.6}
    lines = (
        {'step': 0, **before},
        {'step': 3, 'eval/knn_top1': 0.71, 'eval/probe_top1': 0.8, 'eval/knn_few_top1': 0.7},
        {'step': 9, 'eval/knn_top1': 0.91, 'eval/probe_top1': 0.99},
    )
    (workdir / 'metrics.jsonl').write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
    facts = {'run': {'data': 'digits', 'train_images': 1437, 'total_steps': 9}, 'sessions': []}
    (workdir / 'about.json').write_text(json.dumps(facts))
    config = get_config('mocov3_vit')
    return dataclasses.replace(made('mocov3'), workdir=workdir, weights='online', step=3, run_config=config)


def test_model_card_of_a_run(run: pretrained.Encoder) -> None:
    card = model_card.text(run, 'net', 'timm')
    _, front, body = card.split('---\n', 2)
    assert 'library_name: timm\npipeline_tag: image-feature-extraction\ntags:\n' in front and '- "mocov3"\n' in front
    assert '\n# license: ' in front and '\nlicense:' not in front
    assert '# net\n' in body and "timm.create_model('local-dir:net', pretrained=True)" in body
    assert '| data | digits, 1,437 images, ' in body and '| steps | 3 of 9, batch size ' in body
    assert 'At step 3, on held-out images' in body and '| | this encoder | untrained encoder | raw pixels |' in body
    assert '| kNN, top-1 | 70.0% | 50.0% | 60.0% |' in body and 'On all: kNN, top-1 71.0%' in body
    assert '| linear probe, top-1 | 80.0% | 55.0% | not measured |' in body
    assert str(run.workdir) not in card


def test_model_card_of_a_moving_average(run: pretrained.Encoder) -> None:
    card = model_card.text(dataclasses.replace(run, weights='target', step=9), 'net', 'transformers')
    assert '| method | MoCoV3, moving average of the weights |' in card
    assert 'At step 9 of the trained network, not of its moving average' in card and '| 91.0% | 50.0% | 60.0% |' in card
    assert 'h = output.last_hidden_state[:, 0]' in card


def test_model_card_of_a_file(tmp_path: Path) -> None:
    pretrained.write(tmp_path / 'net', made('basic'))
    card = (tmp_path / 'net' / 'README.md').read_text()
    assert 'Not recorded: the encoder is from a file of weights.' in card and 'Nothing was recorded.' in card


def test_nothing_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a model card that was edited, nor a run, whose `config.json` has the same name."""
    file = tmp_path / 'x.safetensors'
    pretrained.write(file, made('basic'))
    for folder, name in (('net', 'README.md'), ('run', 'config.json')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text('mine')
        assert command.main([str(file), str(tmp_path / folder)]) == 2
        assert f'{folder} already has {name}, which is not replaced -> choose another f' in capsys.readouterr().err
        assert [path.read_text() for path in (tmp_path / folder).iterdir()] == ['mine']
    assert command.main([str(file), f'{tmp_path}/hub/net/']) == 0
    assert 'note: README.md names no license' in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / 'hub' / 'net').iterdir())
    assert names == ['README.md', 'config.json', 'model.safetensors']
