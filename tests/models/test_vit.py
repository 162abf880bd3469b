"""Vision transformer against MoCo v3's `vits.py` on timm, DINO's `vision_transformer.py`, and published sizes."""

import itertools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.models.patch_embed import ConvStem, PatchEmbed
from contrastive_jax.models.positions import bicubic, resize_positions, sincos_position
from contrastive_jax.models.vit import TransformerBlock, VisionTransformer, vit
from tests import goldens

TINY = {'patch_size': 4, 'width': 16, 'depth': 2, 'num_heads': 2}


def from_timm(state: dict[str, np.ndarray]) -> dict[str, Any]:
    """Flax parameters of a timm state dict (without head), or of a part of it."""
    params: dict[str, Any] = {}
    for name, value in state.items():
        if name in ('pos_embed', 'head.weight', 'head.bias'):
            continue
        *module, leaf = re.sub(r'blocks\.(\d+)', r'blocks_\1', name).replace('mlp.', 'mlp_').split('.')
        if leaf == 'weight':
            leaf = 'scale' if value.ndim == 1 else 'kernel'
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        node = params
        for part in module:
            node = node.setdefault(part, {})
        node[leaf] = value
    return params


def flat(tree: Any) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize('case', goldens.cases('mocov3_vit', 'vit'))
def test_golden(case: goldens.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    fields, tol = case.fields, case.tolerances['float64']
    state = case.tree(fields['parameters'])
    if fields.get('use_stored_position'):
        # The authors compute positions in float32; with theirs the rest is exact.
        stored = case.key(fields['position'])[0].astype(np.float64)
        position = sincos_position(*fields['grid'], fields['embed_dim'], fields['position_temperature'])
        np.testing.assert_allclose(position, stored, atol=1e-6)
        monkeypatch.setattr('contrastive_jax.models.vit.sincos_position', lambda height, width, dim: stored)
    with jax.enable_x64(True):
        model = VisionTransformer(
            patch_size=fields['patch_size'],
            width=fields['embed_dim'],
            depth=fields['depth'],
            num_heads=fields['num_heads'],
            mlp_ratio=fields['mlp_ratio'],
            qkv_bias=fields['qkv_bias'],
            layer_norm_epsilon=fields['layer_norm_epsilon'],
            dtype=jnp.float64,
        )
        x = case.key(fields['input']).transpose(0, 2, 3, 1)
        assert list(x.shape[1:3]) == fields['image_size']

        @jax.jit
        def gradient(params: Any) -> Any:
            def loss(params: Any) -> tuple[jax.Array, Any]:
                h = model.apply({'params': params}, x, train=True)
                y = h @ state['head.weight'].T + state['head.bias']
                return (y * case.key(fields['cotangent'])).sum(), (h, y)

            return jax.grad(loss, has_aux=True)(params)

        grads, (h, y) = gradient(from_timm(state))
    goldens.assert_close(h, case.key(fields['features']), tol, 'features')
    goldens.assert_close(y, case.key(fields['output']), tol, 'output')
    actual = flat(grads)
    for path, expected in flat(from_timm(case.tree(fields['gradients']))).items():
        goldens.assert_close(actual[path], expected, tol, path)


@pytest.mark.parametrize('case', goldens.cases('mocov3_vit', 'sincos'))
def test_golden_sincos(case: goldens.Case) -> None:
    fields = case.fields
    position = sincos_position(*fields['grid'], fields['dim'], fields['temperature'])
    expected = case.key(fields['key'])[0]
    goldens.assert_close(position if fields['cls_token'] else position[1:], expected, case.tolerances['float64'])


@pytest.mark.parametrize('case', goldens.cases('mocov3_vit', 'conv_stem'))
def test_golden_conv_stem(case: goldens.Case) -> None:
    fields, tol = case.fields, case.tolerances['float64']
    if fields['channels'] != [fields['embed_dim'] // n for n in (8, 4, 2, 1)]:
        pytest.skip('the stem has four convolutions, each with twice as many channels as the one before it')

    def from_torch(state: dict[str, np.ndarray]) -> dict[str, Any]:
        variables: dict[str, Any] = {'params': {}, 'batch_stats': {}}
        for name, value in state.items():  # proj.<3 i> is a convolution, proj.<3 i + 1> its norm, proj.12 the last
            _, index, leaf = name.split('.')
            if leaf == 'num_batches_tracked':
                continue
            i, norm = divmod(int(index), 3)
            module = f'bn_{i}' if norm else f'conv_{i}' if i < 4 else 'proj'
            if value.ndim == 4:
                leaf, value = 'kernel', value.transpose(2, 3, 1, 0)
            collection = 'batch_stats' if leaf.startswith('running') else 'params'
            leaf = {'running_mean': 'mean', 'running_var': 'var', 'weight': 'scale'}.get(leaf, leaf)
            variables[collection].setdefault(module, {})[leaf] = value
        return variables

    with jax.enable_x64(True):
        model = ConvStem(
            fields['embed_dim'],
            bn_momentum=1 - fields['batch_norm']['momentum'],
            bn_epsilon=fields['batch_norm']['epsilon'],
            dtype=jnp.float64,
        )
        variables = from_torch(case.tree(fields['parameters']))
        x = case.key(fields['input']).transpose(0, 2, 3, 1)
        y, updated = jax.jit(lambda: model.apply(variables, x, train=True, mutable=['batch_stats']))()
        y_eval = jax.jit(lambda: model.apply({**variables, **updated}, x, train=False))()
    expected = case.key(fields['output_train'])
    goldens.assert_close(y.reshape(expected.shape), expected, tol, 'train')
    goldens.assert_close(y_eval.reshape(expected.shape), case.key(fields['output_eval']), tol, 'eval')
    after = flat(from_torch(case.tree(fields['running_after']))['batch_stats'])
    for path, value in flat(updated['batch_stats']).items():
        goldens.assert_close(value, after[path], tol, path)


# ================================ DINO ================================


def dino(case: goldens.Case, precision: str) -> tuple[VisionTransformer, Any]:
    """The golden DINO network and its parameters."""
    f = case.fields
    model = VisionTransformer(
        patch_size=f['patch_size'],
        width=f['embed_dim'],
        depth=f['depth'],
        num_heads=f['num_heads'],
        mlp_ratio=f['mlp_ratio'],
        qkv_bias=f['qkv_bias'],
        layer_norm_epsilon=f['layer_norm_epsilon'],
        position='learned',
        kernel_init='trunc_normal',
        dtype=jnp.dtype(precision),
    )
    state = case.tree(f['parameters'])
    params = {**from_timm(state), 'pos_embed': state['pos_embed']}
    return model, jax.tree.map(lambda x: jnp.asarray(x, precision), params)


@pytest.mark.parametrize('case', goldens.cases('dino_vit', 'vit'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_golden_dino(case: goldens.Case, precision: str) -> None:
    tol = case.tolerances[precision]
    with jax.enable_x64(precision == 'float64'), jax.default_matmul_precision('highest'):
        model, params = dino(case, precision)
        for image in case.fields['images']:
            x = jnp.asarray(case.key(image['input']).transpose(0, 2, 3, 1), precision)
            assert x.shape[:3] == (image['batch_size'], image['height'], image['width'])

            @jax.jit
            def run(params: Any, x: jax.Array) -> Any:
                def apply(method: Any, *args: Any, **kwargs: Any) -> Any:
                    return model.apply({'params': params}, *args, method=method, **kwargs)

                grid = (x.shape[1] // model.patch_size, x.shape[2] // model.patch_size)
                layers = apply('intermediate_layers', x, case.fields['intermediate_layers'])
                return (
                    apply('__call__', x, train=True),
                    resize_positions(params['pos_embed'][0], *grid),
                    apply('last_attention', x),
                    jnp.stack(layers)[:, :, : case.fields['intermediate_tokens']],
                )

            names = ('output', 'position', 'attention', 'intermediate')
            for name, actual in zip(names, run(params, x), strict=True):
                expected = case.key(image[name])
                goldens.assert_close(actual[None] if name == 'position' else actual, expected, tol, name)


@pytest.mark.parametrize('case', goldens.cases('dino_vit', 'vit'))
def test_golden_dino_gradients(case: goldens.Case) -> None:
    gradient, tol = case.fields['gradient'], case.tolerances['float64']
    with jax.enable_x64(True):
        model, params = dino(case, 'float64')
        x = case.key(gradient['input']).transpose(0, 2, 3, 1)
        loss = lambda p: (model.apply({'params': p}, x, train=True) * case.key(gradient['cotangent'])).sum()  # noqa: E731
        grads = jax.jit(jax.grad(loss))(params)
    expected = {name: case.key(key) for name, key in gradient['of'].items()}
    goldens.assert_close(grads['pos_embed'], expected.pop('pos_embed'), tol, 'pos_embed')
    actual = flat(grads)
    for path, value in flat(from_timm(expected)).items():
        goldens.assert_close(actual[path], value, tol, path)


@pytest.mark.parametrize('case', goldens.cases('dino_vit', 'vit'))
def test_bicubic_positions_of_a_grid(case: goldens.Case) -> None:
    """Weights sum to 1, and the offset moves the samples: not a plain resize, not even at the same size."""
    f = case.fields['position']
    if (f['cubic_a'], f['scale_offset'], f['antialias']) != (-0.75, 0.1, False):
        pytest.skip('positions are resized as in the official code of DINO')
    for target in (2, f['grid'], 7):
        np.testing.assert_allclose(bicubic(f['grid'], target).sum(axis=1), 1.0, rtol=1e-12)
    assert np.abs(bicubic(f['grid'], f['grid']) - np.eye(f['grid'])).max() > 0.05


def test_drop_path_is_drawn_by_position_and_keeps_the_mean() -> None:
    model = VisionTransformer(**TINY, drop_path=0.5)
    x = jnp.zeros((2, 8, 8, 3))
    params = init(model, x)

    def draw(b: int, axis_name: str | None) -> Any:
        return model.apply(params, b, axis_name, method='kept_paths', rngs={'drop_path': jax.random.key(0)})

    kept = np.asarray(draw(2000, None))
    assert kept.shape == (2000, 2, 2)
    assert set(np.unique(kept[:, 0])) == {1.0}  # the first block keeps its branches
    assert set(np.unique(kept[:, 1])) == {0.0, 2.0}
    np.testing.assert_allclose(kept.mean(axis=0), 1.0, atol=0.1)
    split = jax.vmap(lambda _: draw(500, 'data'), axis_name='data')(jnp.arange(4))
    np.testing.assert_array_equal(split.reshape(kept.shape), kept)


def test_drop_path_leaves_out_whole_branches_and_needs_a_key() -> None:
    x = jax.random.normal(jax.random.key(0), (64, 8, 8, 3))
    model = VisionTransformer(**TINY, drop_path=0.9)

    @jax.jit
    def run() -> Any:
        variables = model.init(jax.random.key(1), x, train=True)
        apply = lambda model, rngs=None: model.apply(variables, x, train=True, rngs=rngs)  # noqa: E731
        whole, never = apply(model), apply(model.clone(drop_path=0.0), {'drop_path': jax.random.key(2)})
        return apply(model, {'drop_path': jax.random.key(2)}), whole, never, apply(model.clone(depth=1))

    dropped, whole, never, bare = run()
    np.testing.assert_allclose(whole, never, atol=1e-5)
    same = np.isclose(dropped, bare, atol=1e-5).all(axis=1)  # both branches of the second block are left out: 81 %
    assert 0.6 < same.mean() < 0.95
    assert not np.allclose(whole, bare, atol=1e-3)


def test_dino_s_small_has_six_heads() -> None:
    assert [vit(f'dino_{size}').num_heads for size in ('tiny', 'small', 'base')] == [3, 6, 12]


# timm's and DINO's sizes at 224 pixels, less the classifier of timm.
@pytest.mark.parametrize(
    ('name', 'patch', 'total'),
    [
        ('dino_tiny', 16, 5_717_416 - 193 * 1000),
        ('dino_small', 16, 21_665_664),
        ('dino_small', 8, 21_670_272),
        ('dino_base', 16, 85_798_656),
        ('dino_base', 8, 85_807_872),
    ],
)
def test_parameter_counts_of_dino(name: str, patch: int, total: int) -> None:
    assert parameters(vit(name, patch)) == total


def test_initial_values_of_dino() -> None:
    model = vit('dino_tiny', patch_size=8, width=64, depth=1, num_heads=2)
    params = init(model, jnp.zeros((1, 64, 64, 3)))['params']
    block = params['blocks_0']
    for value in (
        params['pos_embed'],
        params['cls_token'],
        *(block['attn'][name]['kernel'] for name in ('qkv', 'proj')),
        *(block[name]['kernel'] for name in ('mlp_fc1', 'mlp_fc2')),
    ):
        np.testing.assert_allclose(np.std(value), 0.02, rtol=0.25 if value.size == 64 else 0.05)
    bound = (3 * 8 * 8) ** -0.5  # torch's convolution, which DINO leaves as it is
    for value in params['patch_embed']['proj'].values():
        assert 0.9 * bound < np.abs(value).max() <= bound
    assert not any(np.any(block['attn'][name]['bias']) for name in ('qkv', 'proj'))


# ================================ sizes and other options ================================


def init(model: VisionTransformer, x: jax.Array) -> Any:
    return jax.jit(lambda: model.init(jax.random.key(0), x, train=True))()


def parameters(model: VisionTransformer, size: int = 224) -> int:
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables['params']))


# timm's sizes of *_patch16_224 less the learned positions [197, D] and the 1000-way classifier.
@pytest.mark.parametrize(
    ('name', 'total', 'width'),
    [
        ('vit_tiny', 5_717_416, 192),
        ('vit_small', 22_050_664, 384),
        ('vit_base', 86_567_656, 768),
        ('vit_large', 304_326_632, 1024),
    ],
)
def test_parameter_counts(name: str, total: int, width: int) -> None:
    assert parameters(vit(name)) == total - 197 * width - 1001 * width + width - 1000


@pytest.mark.parametrize(('name', 'reference'), [('vit_conv_small', 'vit_small'), ('vit_conv_base', 'vit_base')])
def test_conv_stem_replaces_a_block_and_the_patch_embedding(name: str, reference: str) -> None:
    d = vit(name).width
    block = 12 * d * d + 13 * d
    channels = [3, d // 8, d // 4, d // 2, d]
    stem = sum(9 * a * b + 2 * b for a, b in itertools.pairwise(channels)) + d * d + d
    assert parameters(vit(name)) == parameters(vit(reference)) - block - (3 * 16 * 16 * d + d) + stem


def test_moco_v3_small_has_twelve_heads() -> None:
    assert vit('vit_small').num_heads == 12
    assert vit('vit_small', num_heads=6).num_heads == 6


def test_patches_are_a_convolution() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    model = PatchEmbed(patch_size=4, width=5)
    params = model.init(jax.random.key(1), x)['params']['proj']
    expected = jax.lax.conv_general_dilated(
        x, params['kernel'], (4, 4), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    actual = model.apply({'params': {'proj': params}}, x)
    np.testing.assert_allclose(actual, expected + params['bias'], atol=1e-5)


def test_the_last_block_may_answer_for_the_cls_token_only() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    block = TransformerBlock(2, 4.0, True, 1e-6, None, 'xavier', jnp.float32)

    @jax.jit
    def run() -> tuple[jax.Array, jax.Array]:
        (every, _), variables = block.init_with_output(jax.random.key(1), x)
        return every, block.clone(queries=1).apply(variables, x)[0]

    every, cls_only = run()
    np.testing.assert_allclose(cls_only, every[:, :1], rtol=1e-5, atol=1e-6)


def test_initial_values() -> None:
    d, p = 64, 8
    model = vit('vit_tiny', patch_size=p, width=d, depth=1, num_heads=2)
    params = init(model, jnp.zeros((1, 16, 16, 3)))['params']
    block = params['blocks_0']
    for kernel, bound in (
        (params['patch_embed']['proj']['kernel'], math.sqrt(6 / (3 * p * p + d))),
        (block['attn']['qkv']['kernel'], math.sqrt(6 / (2 * d))),
        (block['attn']['proj']['kernel'], math.sqrt(6 / (2 * d))),
        (block['mlp_fc1']['kernel'], math.sqrt(6 / (5 * d))),
        (block['mlp_fc2']['kernel'], math.sqrt(6 / (5 * d))),
    ):
        assert 0.98 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(np.std(kernel), bound / math.sqrt(3), rtol=0.05)
    biases = [leaf for path, leaf in flat(params).items() if path.endswith("['bias']")]
    assert biases
    assert all((leaf == 0).all() for leaf in biases)
    np.testing.assert_allclose(np.std(params['cls_token']), 1e-6, rtol=0.4)


def test_remat_is_the_same_network() -> None:
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = init(VisionTransformer(**TINY), x)

    def value_and_grad(remat: bool) -> Any:
        model = VisionTransformer(**TINY, remat=remat)
        same = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=True))
        assert jax.tree.structure(same) == jax.tree.structure(variables)
        return jax.jit(jax.value_and_grad(lambda v: (model.apply(v, x, train=True) ** 3).sum()))(variables)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), value_and_grad(True), value_and_grad(False)
    )


def test_bfloat16_keeps_parameters_in_float32() -> None:
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    model = VisionTransformer(**TINY, dtype=jnp.bfloat16)
    variables = init(model, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    run = jax.jit(lambda model: model.apply(variables, x, train=True), static_argnums=0)
    h = run(model)
    assert h.dtype == jnp.float32
    np.testing.assert_allclose(h, run(model.clone(dtype=jnp.float32)), atol=0.1)


@pytest.mark.parametrize('position', ['sincos', 'learned'])
def test_other_image_sizes_use_the_same_parameters(position: str) -> None:
    model = VisionTransformer(**TINY, position=position)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))
    for size in ((8, 8), (16, 12)):
        h = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, jnp.zeros((3, *size, 3)))
        assert h.shape == (3, 16)


def test_positions_are_learned_on_a_square() -> None:
    with pytest.raises(ValueError, match='this one is 2x4; initialize the parameters with square images'):
        VisionTransformer(**TINY, position='learned').init(jax.random.key(0), jnp.zeros((1, 8, 16, 3)), train=True)


@pytest.mark.parametrize(
    ('fields', 'size', 'message'),
    [
        ({'patch_size': 16}, 225, 'image size 225 is not divisible by patch_size 16; use 224 or 240'),
        ({'patch_size': 16}, 8, 'image size 8 is not divisible by patch_size 16; use 16'),
        ({'num_heads': 5}, 224, 'ViT width 192 is not divisible by num_heads 5'),
        ({'width': 18, 'num_heads': 2}, 32, 'multiple of 4'),
        ({'stem': 'conv', 'patch_size': 8}, 32, 'patch_size 16'),
        ({'stem': 'mlp'}, 32, 'is unknown; use patch or conv'),
        ({'position': 'rotary'}, 32, "ViT position 'rotary' is unknown; use sincos or learned"),
        ({'kernel_init': 'torch'}, 32, "ViT kernel_init 'torch' is unknown; use xavier or trunc_normal"),
        ({'drop_path': 1.0}, 32, 'ViT drop_path 1.0 is out of range'),
    ],
)
def test_sizes_that_do_not_fit(fields: dict[str, Any], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parameters(vit('vit_tiny', **fields), size)
