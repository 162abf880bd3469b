"""CMC's encoder: two ResNets side by side, each as the ResNet alone."""

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax.models import build
from contrastive_jax.models.resnet import resnet


def test_each_half_is_a_resnet_of_its_own_channels(rng):
    fields = {'stem': 'cifar', 'width': 4, 'stem_width': 6, 'stage_sizes': (1, 1)}
    network = build({'name': 'split_resnet_tiny', **fields}, {'num_layers': 1, 'hidden_dim': 1, 'output_dim': 5})
    x = jnp.asarray(rng.normal(size=(4, 8, 8, 3)), jnp.float32)
    variables = jax.jit(lambda x: network.init(jax.random.key(0), x, train=False))(x)
    params = variables['params']
    shapes = {half: tree['conv1']['kernel'].shape for half, tree in params['encoder'].items()}
    assert shapes == {'l': (3, 3, 1, 6), 'ab': (3, 3, 2, 6)}
    assert params['encoder']['l']['layer1_0']['conv1']['kernel'].shape == (3, 3, 6, 4)
    assert {half: tree['linear_0']['kernel'].shape for half, tree in params['projector'].items()} == {
        'l': (8, 5),
        'ab': (8, 5),
    }

    h, z = jax.jit(lambda v, x: network.apply(v, x, train=False, method='project'))(variables, x)
    alone = resnet('resnet_tiny', **fields)
    halves = [
        jax.jit(lambda v, x: alone.apply(v, x, train=False))(
            {kind: variables[kind]['encoder'][half] for kind in ('params', 'batch_stats')}, x
        )
        for half, x in (('l', x[..., :1]), ('ab', x[..., 1:]))
    ]
    np.testing.assert_allclose(h, np.concatenate(halves, axis=1), rtol=1e-5, atol=1e-6)
    kernels = [params['projector'][half]['linear_0']['kernel'] for half in ('l', 'ab')]
    np.testing.assert_allclose(
        z, np.concatenate([a @ k for a, k in zip(halves, kernels, strict=True)], axis=1), rtol=1e-4, atol=1e-5
    )
    assert not np.array_equal(*kernels), 'drawn apart'
