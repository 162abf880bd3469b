"""Features of several class tokens: DINO's own values, and the tokens that they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.models.tokens import tokens
from contrastive_jax.models.vit import VisionTransformer
from tests import goldens
from tests.models.test_vit import dino


@pytest.mark.parametrize('case', goldens.cases('dino_vit', 'vit'))
def test_golden_class_tokens(case: goldens.Case) -> None:
    """Also of images of another size than the positions were made for."""
    count, tol = case.fields['intermediate_layers'], case.tolerances['float64']
    with jax.enable_x64(True):
        model, params = dino(case, 'float64')
        for image in case.fields['images']:
            x = jnp.asarray(case.key(image['input']).transpose(0, 2, 3, 1))
            h = jax.jit(lambda p, x: tokens(model, count, False).apply({'params': p}, x, train=False))(params, x)
            layers = case.key(image['intermediate'])  # [count, B, 3, D]: class tokens stand first
            goldens.assert_close(h, np.concatenate(list(layers[:, :, 0]), axis=1), tol, 'class tokens')


def test_average_pool_and_parameters() -> None:
    """eval_linear.py of DINO: the class token and the mean of the patch tokens, both after the LayerNorm."""
    vit = VisionTransformer(patch_size=4, width=16, depth=3, num_heads=2, position='learned', dtype=jnp.float32)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    variables = jax.jit(lambda: vit.init(jax.random.key(0), x, train=False))()
    pooled = tokens(vit, 2, True)
    shapes = [jax.eval_shape(lambda m=m: m.init(jax.random.key(0), x, train=False)) for m in (vit, pooled)]
    assert shapes[0] == shapes[1], 'the same parameters'
    before, last = jax.jit(lambda v: vit.apply(v, x, 2, method='intermediate_layers'))(variables)
    h = jax.jit(lambda v: pooled.apply(v, x, train=False))(variables)
    expected = np.concatenate([before[:, 0], last[:, 0], np.mean(np.asarray(last)[:, 1:], axis=1)], axis=1)
    np.testing.assert_allclose(h, expected, rtol=1e-4, atol=1e-5)
    one = jax.jit(lambda v: tokens(vit, 1, False).apply(v, x, train=False))(variables)
    np.testing.assert_allclose(one, jax.jit(lambda v: vit.apply(v, x, train=False))(variables), rtol=1e-4, atol=1e-5)
