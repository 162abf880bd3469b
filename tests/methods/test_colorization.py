"""Colorization: what the encoder sees, which colors it predicts, and the pass that counts them."""

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.augment import spaces
from contrastive_jax.data.sources import ArraySource
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.losses import color_bins, color_weights, colorization
from contrastive_jax.methods import Colorization
from contrastive_jax.methods.colorization import STD
from contrastive_jax.models.resnet import resnet
from contrastive_jax.training.build import build_run
from tests import train_steps
from tests.methods.test_decoding import NETWORK, SIZE

Q = len(color_bins())


def test_the_features_are_those_of_the_lightness(rng):
    """Also of an evaluation: the colors of an image change nothing."""
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 3)), jnp.float32)
    fields = {'stem': 'cifar', 'width': 4, 'stage_sizes': (1,)}
    module, alone = resnet('resnet_tiny', input_channels=1, **fields), resnet('resnet_tiny', **fields)
    variables = module.init(jax.random.key(0), x, train=False)
    np.testing.assert_array_equal(
        module.apply(variables, x, train=False), alone.apply(variables, x[..., :1], train=False)
    )


def test_every_second_pixel_in_loops(rng):
    """A 3x3 convolution of the projections of 2 x 2 cells predicts the color of the first pixel of each cell."""
    method = Colorization(NETWORK, stride=2, neighbors=3, sigma=4.0, decoder_width=5)
    images, weights, half = rng.uniform(-1, 1, size=(2, SIZE, SIZE, 3)), rng.uniform(0.5, 2, Q), SIZE // 2
    with jax.enable_x64(True):
        batch = {'views': (jnp.asarray(images),)}
        params, state = method.init(jax.random.key(0), batch)
        params = jax.tree.map(lambda p: jnp.asarray(rng.normal(scale=0.3, size=p.shape)), params)
        state = state.replace(memory=state.memory | {'weights': jnp.asarray(weights)})
        loss, (after, metrics) = method.loss(params, state, batch, rng=jax.random.key(1), progress=0.0)
        linear, last = params['projector']['linear_0'], params['decoder']['image']
        cells = images.reshape(2, half, 2, half, 2, 3).swapaxes(2, 3).reshape(2, half, half, 12)
        hidden = np.maximum(np.pad(cells @ linear['kernel'] + linear['bias'], ((0, 0), (1, 1), (1, 1), (0, 0))), 0)
        hidden[:, [0, -1]] = hidden[:, :, [0, -1]] = 0  # the padding of the last convolution
        logits, ab = np.zeros((2, half, half, Q)), np.zeros((2, half, half, 2))
        for i, r, s in np.ndindex(2, half, half):
            logits[i, r, s] = last['bias'] + np.tensordot(hidden[i, r : r + 3, s : s + 3], last['kernel'], 3)
            ab[i, r, s] = images[i, 2 * r, 2 * s, 1:] * STD[1:]
        expected = colorization(jnp.asarray(logits), jnp.asarray(ab), jnp.asarray(weights), neighbors=3, sigma=4.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    right = [
        np.argmax(logits[place]) == np.argmin(((color_bins() - ab[place]) ** 2).sum(1))
        for place in np.ndindex(2, half, half)
    ]
    np.testing.assert_allclose(metrics['pretext_top1'], np.mean(right), rtol=1e-6)
    np.testing.assert_array_equal(after.memory['weights'], weights)


def test_the_pass_counts_the_colors_of_the_training_images(rng):
    """Each pixel once, on two devices; the first step of an epoch makes the weights."""
    whole = {
        'augment.crop_scale': (1.0, 1.0),
        'augment.crop_ratio': (1.0, 1.0),
        'augment.flip': 0.0,
        'method.stride': 2,
    }
    config = train_steps.load_small('colorization:tiny', depth=2, batch_size=8, **whole)
    images = rng.integers(0, 256, (24, 8, 8, 3), np.uint8)
    source = ArraySource(images, np.zeros(24, np.int32), name='colors')
    run, devices = build_run(config, len(source)), find_devices('jit', 2)
    state = train_steps.surveyed(run, source, devices, train_steps.start(run, devices))
    method_state = jax.device_get(devices.collect(state, run.state_specs)).method

    lab = np.asarray(spaces.from_rgb(jnp.asarray(images[:, ::2, ::2] / np.float32(255)), 'lab'))
    distances = ((lab[..., 1:].reshape(-1, 1, 2) - color_bins()) ** 2).sum(-1)
    counts = np.bincount(distances.argmin(1), minlength=Q)
    found = method_state.memory['counts']
    assert found.sum() == counts.sum() == 24 * 16
    assert np.abs(found - counts).sum() <= 2, 'rounding may move a color that lies between two bins'
    prepared = run.method.before_epoch(method_state, rng=jax.random.key(0)).memory['weights']
    np.testing.assert_allclose(prepared, color_weights(jnp.asarray(found)), rtol=1e-6)
