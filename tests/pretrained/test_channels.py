"""Weights with other channels than RGB, in and out: the bits, the options, and torch's and timm's own answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contrastive_jax import convert, load_encoder
from contrastive_jax.augment.policy import Policy
from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import encoder_file, state_dicts, writers
from contrastive_jax.pretrained.assemble import assemble, shapes
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.training import given
from contrastive_jax.training.build import build_run
from tests.tiny_configs import get_config

RESNET: dict[str, Any] = {'name': 'resnet_tiny', 'width': 8, 'stem': 'imagenet'}
VIT: dict[str, Any] = {'name': 'dino_small', 'width': 48, 'depth': 1, 'num_heads': 3, 'patch_size': 8}
KERNELS = {'resnet_tiny': 'params/conv1/kernel', 'dino_small': 'params/patch_embed/kernel'}


def random_encoder(architecture: dict[str, Any], channels: int) -> Encoder:
    rng = np.random.default_rng(0)
    arrays = {name: rng.uniform(0.5, 1, shape) for name, shape in shapes(architecture, 32, channels).items()}
    mean, std = tuple(rng.uniform(0, 1, channels).tolist()), tuple(rng.uniform(0.1, 1, channels).tolist())
    return assemble(architecture, arrays, 32, 'seed 0', Policy(mean=mean, std=std))


@pytest.mark.parametrize('architecture', [RESNET, VIT], ids=['resnet', 'vit'])
def test_a_state_dict_of_any_channels_goes_out_and_in(
    architecture: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = random_encoder(architecture, 4)
    ours, theirs = tmp_path / 'ours.safetensors', tmp_path / 'theirs.pth'
    encoder_file.save(ours, encoder)
    assert load_encoder(ours).policy.mean == encoder.policy.mean
    assert convert.main([str(ours), str(theirs)]) == 0
    assert 'in_chans' in capsys.readouterr().out
    assert load_encoder(theirs).policy.mean == encoder.policy.mean
    writers.write_torch(theirs, state_dicts.state_dict(encoder))  # as another program saves it
    again = load_encoder(theirs, encoder=architecture, say=print)
    for name, x in encoder.flat.items():
        np.testing.assert_array_equal(again.flat[name], x)
    assert (again.channels, again.policy.mean, again.policy.std) == (4, (0.0,) * 4, (1.0,) * 4)
    assert 'input: 4 channels, minus mean (0.0, 0.0, 0.0, 0.0)' in capsys.readouterr().out
    half = load_encoder(theirs, pixels='half', encoder=architecture)
    assert (half.policy.mean, half.policy.std) == ((0.5,) * 4, (0.5,) * 4)
    with pytest.raises(UserError, match="pixels 'imagenet' is of RGB, and the encoder takes 4 channels -> choose unit"):
        load_encoder(theirs, pixels='imagenet', encoder=architecture)
    with pytest.raises(UserError, match=r'images are uint8\[1, 32, 32, 3\] -> give uint8\[n, H, W, 4\]'):
        again(np.zeros((1, 32, 32, 3), np.uint8))


@pytest.mark.parametrize('channels', [1, 2, 13])
def test_weights_of_rgb_are_repeated_as_asked(channels: int, tmp_path: Path) -> None:
    encoder = random_encoder(RESNET, 3)
    kernel, adapted = encoder.flat[KERNELS['resnet_tiny']], encoder.with_channels(channels)
    expected = np.zeros((*kernel.shape[:2], channels, kernel.shape[3]), np.float32)
    for c in range(channels):
        expected[:, :, c] = kernel.sum(2) if channels == 1 else kernel[:, :, c % 3] * np.float32(3 / channels)
    np.testing.assert_array_equal(adapted.flat[KERNELS['resnet_tiny']], expected)
    assert adapted.channels == channels and len(adapted.policy.std) == channels
    with pytest.raises(UserError, match='only encoders of RGB are adapted'):
        adapted.with_channels(4)


def test_a_run_refuses_weights_of_other_channels_unless_told_to_repeat(tmp_path: Path) -> None:
    config = get_config('mocov2')
    config.unlock()
    config.data.channels, config.augment.mean, config.augment.std = 4, (0.1,) * 4, (0.2,) * 4
    run, file = build_run(config, 64), tmp_path / 'rgb.safetensors'
    encoder_file.save(file, random_encoder(config.encoder.to_dict(), 3))
    message = r'conv1/kernel has shape \[3, 3, 3, 4\] instead of \[3, 3, 4, 4\] -> they take 3 channels, the run has 4'
    with pytest.raises(UserError, match=message):
        given.read_weights(str(file), run, load_encoder)
    encoder = given.read_weights(str(file), run, load_encoder, repeat_channels=True)
    assert encoder.channels == 4 and encoder.policy == run.policy
    assert len(given.describe(encoder, run)) == 1, 'no warning about another normalization'
    assert 'repeated for 4 channels' in given.describe(encoder, run)[0]


@pytest.mark.parametrize(('name', 'channels'), [('resnet18', 1), ('resnet18', 13), ('vit_tiny_patch16_224', 2)])
def test_timm_adapts_and_computes_the_same(name: str, channels: int, tmp_path: Path) -> None:
    torch, timm = pytest.importorskip('torch'), pytest.importorskip('timm')
    from timm.models import adapt_input_conv

    torch.manual_seed(0)
    size = {'img_size': 32} if name.startswith('vit') else {}
    model = timm.create_model(name, num_classes=0, **size).eval()
    torch.save(model.state_dict(), tmp_path / 'rgb.pth')
    options = {'encoder': 'dino_tiny' if size else ''}
    flags = [f'--encoder={options["encoder"]}'] if size else []
    assert convert.main([str(tmp_path / 'rgb.pth'), str(tmp_path / 'bands.pth'), f'--channels={channels}', *flags]) == 0
    first = 'patch_embed.proj.weight' if size else 'conv1.weight'
    state = model.state_dict()
    state[first] = adapt_input_conv(channels, state[first])
    bands = timm.create_model(name, num_classes=0, in_chans=channels, **size).eval()
    bands.load_state_dict(state)
    ours = torch.load(tmp_path / 'bands.pth', weights_only=True)
    torch.testing.assert_close(ours[first], state[first], rtol=1e-6, atol=1e-8)
    images = np.random.default_rng(0).integers(0, 65536, (2, 32, 32, channels), np.uint16)
    with torch.no_grad():
        expected = bands(torch.from_numpy(np.float32(images / 65535).transpose(0, 3, 1, 2))).numpy()
    torch.save(bands.state_dict(), tmp_path / 'timm.pth')
    h = np.asarray(load_encoder(tmp_path / 'timm.pth', **options)(images))
    np.testing.assert_allclose(h, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize('channels', [1, 5])
def test_onnx_takes_any_channels(channels: int, tmp_path: Path) -> None:
    pytest.importorskip('jax2onnx')
    file = tmp_path / 'ours.safetensors'
    encoder_file.save(file, random_encoder({**RESNET, 'stage_sizes': [1]}, channels))
    assert convert.main([str(file), str(tmp_path / 'x.onnx')]) == 0  # it compares its features with ours
