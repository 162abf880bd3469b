"""Files in the forms of other projects: their names, their sections, and networks that are near a supported one."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from contrastive_jax import convert, pretrained
from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import relatives
from tests.pretrained import published_files
from tests.pretrained.published_files import prefixed

State = dict[str, np.ndarray]


def network() -> tuple[State, np.ndarray]:
    """A ResNet with one basic block of 4, 8, 16 and 32 channels in each stage, and one image [1, 3, 12, 12]."""
    rng, state = np.random.default_rng(5), dict[str, np.ndarray]()

    def conv(name: str, out: int, inner: int, size: int) -> None:
        x = rng.normal(0, (2 / (inner * size * size)) ** 0.5, (out, inner, size, size))
        state[f'{name}.weight'] = x.astype(np.float32)

    def norm(name: str, channels: int) -> None:
        ranges = {'weight': (0.5, 1.5), 'bias': None, 'running_mean': None, 'running_var': (0.5, 1.5)}
        for leaf, ends in ranges.items():
            x = rng.uniform(*ends, channels) if ends else rng.normal(0, 0.1, channels)
            state[f'{name}.{leaf}'] = x.astype(np.float32)

    conv('conv1', 4, 3, 3)
    norm('bn1', 4)
    inner = 4
    for stage in range(4):
        out, block = 4 * 2**stage, f'layer{stage + 1}.0.'
        for i, size in ((1, inner), (2, out)):
            conv(f'{block}conv{i}', out, size, 3)
            norm(f'{block}bn{i}', out)
        if stage:
            conv(f'{block}downsample.0', out, inner, 1)
            norm(f'{block}downsample.1', out)
        inner = out
    return state, rng.normal(size=(1, 3, 12, 12)).astype(np.float32)


STATE, IMAGE = network()

# torch 2.14 computed the first six features of torchvision's blocks with these weights: (stride and padding of the
# stem, whether max-pooling follows) -> features.
FEATURES = {
    (1, 1, 'no'): [0.390655, 0.445534, 0.0, 1.1158, 2.52881, 0.488078],
    (1, 2, 'no'): [0.270958, 0.00372869, 0.00793093, 0.910423, 2.05558, 1.61743],
    (1, 1, 'yes'): [0.875236, 0.0, 0.0, 0.0, 5.94019, 0.0],
    (2, 0, 'yes'): [0.0, 0.185716, 0.0, 0.0, 1.24523, 0.0],
}


def features(encoder: pretrained.Encoder) -> np.ndarray:
    with jax.default_matmul_precision('highest'):
        apply = jax.jit(lambda variables, x: encoder.module.apply(variables, x, train=False))
        return np.asarray(apply(encoder.variables, IMAGE.transpose(0, 2, 3, 1)))[0, :6]


@pytest.mark.parametrize('setting', FEATURES)
def test_what_weights_do_not_tell_of_the_stem(tmp_path: Path, setting: tuple[int, int, str]) -> None:
    published_files.write(tmp_path / 'x.pth', {'state_dict': prefixed('backbone.', STATE)})
    stride, padding, pool = setting
    fields = {'stem_stride': stride, 'stem_padding': padding, 'stem_pool': pool == 'yes'}
    made = pretrained.load(tmp_path / 'x.pth', fields=fields)
    np.testing.assert_allclose(features(made), FEATURES[setting], rtol=2e-5, atol=2e-6)


def test_options_for_the_stem(tmp_path: Path) -> None:
    published_files.write(tmp_path / 'x.pth', STATE)
    options = ['--stem_stride=1', '--stem-padding=2', '--stem_pool=no']
    assert convert.main([str(tmp_path / 'x.pth'), str(tmp_path / 'y.safetensors'), *options]) == 0
    made = pretrained.load(tmp_path / 'y.safetensors')
    fields = {'stem_stride': 1, 'stem_padding': 2, 'stem_pool': False}
    assert {field: made.architecture[field] for field in fields} == fields


def test_what_is_assumed_is_said(tmp_path: Path) -> None:
    path, said = published_files.write(tmp_path / 'x.pth', {'state_dict': STATE}), list[str]()
    np.testing.assert_allclose(features(pretrained.load(path, say=said.append)), FEATURES[1, 1, 'no'], rtol=2e-5)
    (line,) = (line for line in said if line.startswith('assumed'))
    for what in ('stride 1', 'padding 1', 'no max-pooling', 'eps 1e-05', '--stem_padding', '--stem_pool'):
        assert what in line


# ================================ forms ================================


def numbered(first: int) -> State:
    """The names of nn.Sequential(*list(resnet.children())[:-1])."""
    places = {'conv1': '0', 'bn1': '1', **{f'layer{n + 1}': str(first + n) for n in range(4)}}
    return {f'{places[name.split(".")[0]]}.{name.split(".", 1)[1]}': x for name, x in STATE.items()}


def transformers_names() -> State:
    """The names of transformers' ResNet."""
    renamed = {}
    for name, x in STATE.items():
        module, leaf = name.rsplit('.', 1)
        if '.' not in module:
            module = {'conv1': 'embedder.embedder.convolution', 'bn1': 'embedder.embedder.normalization'}[module]
        else:
            stage, block, layer = module.split('.', 2)
            place = {'conv1': 'layer.0.convolution', 'bn1': 'layer.0.normalization', 'conv2': 'layer.1.convolution',
                     'bn2': 'layer.1.normalization', 'downsample.0': 'shortcut.convolution',
                     'downsample.1': 'shortcut.normalization'}[layer]  # fmt: skip
            module = f'encoder.stages.{int(stage[5]) - 1}.layers.{block}.{place}'
        renamed[f'{module}.{leaf}'] = x
    return renamed


def ones(state: State) -> State:
    return {name: np.ones_like(x) for name, x in state.items()}


ROW = np.ones((2, 2), np.float32)
FORMS: dict[str, dict[str, Any]] = {
    'lightly': {'state_dict': {**prefixed('backbone.', numbered(4)), 'projection_head.layers.0.weight': ROW},
                'hyper_parameters': {'lr': 0.1}},
    'lightly, MoCo': {'state_dict': {
        **prefixed('backbone_momentum.', ones(numbered(4))), **prefixed('backbone.', numbered(4))}},
    'solo-learn': {'state_dict': {**prefixed('backbone.', STATE), **prefixed('momentum_backbone.', ones(STATE)),
                                  'classifier.weight': ROW, 'projector.0.weight': ROW, 'queue': ROW},
                   'pytorch-lightning_version': '1.6', 'hyper_parameters': {'backbone': {'name': 'resnet18'}}},
    'mmselfsup': {'meta': {'cfg': 'model = dict()'}, 'state_dict': {
        'data_preprocessor.mean': ROW, **prefixed('backbone.', STATE),
        **prefixed('encoder_k.module.0.', ones(STATE)), 'neck.mlp.0.weight': ROW}},
    'VISSL': {'phase': 1, 'classy_state_dict': {'base_model': {'meta': {}, 'model': {
        'trunk': prefixed('_feature_blocks.', STATE), 'heads': {'0.clf.0.weight': ROW}}}}},
    'compiled, distributed': {'model': prefixed('module._orig_mod.', STATE)},
    'compiled Lightning': {'state_dict': prefixed('_orig_mod.model.net.backbone.', STATE), 'callbacks': {}},
    'stable-pretraining': {'state_dict': {**prefixed('backbone.', STATE), 'projector.0.weight': ROW,
                                          'callbacks_modules.probe.weight': ROW}},
    'timm': {'arch': 'resnet18', 'state_dict': ones(STATE), 'state_dict_ema': {**STATE, 'fc.weight': ROW}},
    'SupContrast': {'model': {**prefixed('module.encoder.', {
        name.replace('downsample', 'shortcut'): x for name, x in STATE.items()}), 'module.head.0.weight': ROW}},
    'DistributedDataParallel with an encoder': {'state_dict': {
        **prefixed('module.encoder.', STATE), 'module.decoder.weight': ROW}},
    'transformers': {'state_dict': {**prefixed('resnet.', transformers_names()), 'classifier.1.weight': ROW}},
}  # fmt: skip


@pytest.mark.parametrize('name', FORMS)
def test_form(tmp_path: Path, name: str) -> None:
    """Each form gives the same arrays, and so the same features."""
    made = pretrained.load(_written(tmp_path, FORMS[name]))
    assert made.architecture == {'name': 'resnet_tiny', 'width': 4, 'stem': 'cifar'}
    assert len(made.flat) == len(STATE)
    for path, x in made.flat.items():
        _, *modules, leaf = path.split('/')
        module = '.'.join(modules).replace('_0.', '.0.').replace('downsample_conv', 'downsample.0')
        module = module.replace('downsample_bn', 'downsample.1')
        torch = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}.get(leaf, leaf)
        expected = STATE[f'{module}.{torch}']
        np.testing.assert_array_equal(x, expected.transpose(2, 3, 1, 0) if expected.ndim == 4 else expected)


def _written(tmp_path: Path, content: dict[str, Any]) -> Path:
    """Writes a file with sections within sections."""
    arrays: list[np.ndarray] = []

    def program(value: Any) -> bytes:
        if not isinstance(value, dict):
            return published_files._spelled(value)
        if published_files._is_state(value):
            items = {key: (str(i), x) for i, (key, x) in enumerate(value.items(), start=len(arrays))}
            arrays.extend(value.values())
            tensors = {key: published_files.writers._tensor(i, x, ()) for key, (i, x) in items.items()}
            return published_files.writers._ordered_dict() + published_files.writers._items(tensors)
        return b'}(' + b''.join(published_files._spelled(key) + program(x) for key, x in value.items()) + b'u'

    return published_files.write_zip(tmp_path / 'x.pth', b'\x80\x02' + program(content) + b'.', arrays)


def test_a_moving_average_is_chosen_by_weights(tmp_path: Path) -> None:
    path, said = published_files.write(tmp_path / 'x.pth', FORMS['solo-learn']), list[str]()
    made = pretrained.load(path, 'target', say=said.append)
    assert made.params['conv1']['kernel'].min() == made.params['conv1']['kernel'].max() == 1
    assert 'network: moving average (weights=target); the file also contains the trained network' in said
    one = published_files.write(tmp_path / 'y.pth', FORMS['SupContrast'])
    with pytest.raises(UserError, match="choose weights 'online'"):
        pretrained.load(one, 'target')


def test_lightly_resnet_for_cifar_has_no_relu_after_its_stem(tmp_path: Path) -> None:
    """Its ReLU is in `forward`, which nn.Sequential(*children) does not have; shortcuts have another name."""
    state = {name.replace('downsample', 'shortcut'): x for name, x in numbered(2).items()}
    made = pretrained.load(published_files.write(tmp_path / 'x.pth', {'state_dict': prefixed('backbone.', state)}))
    assert made.architecture['stem_relu'] is False
    # The same with a ReLU, if the norm of the stem gives positive values only.
    shifted = {**STATE, 'bn1.bias': STATE['bn1.bias'] + 100}
    with_relu = pretrained.load(published_files.write(tmp_path / 'y.pth', shifted))
    renamed = {**state, '1.bias': shifted['bn1.bias']}
    without = pretrained.load(published_files.write(tmp_path / 'z.pth', {'state_dict': prefixed('backbone.', renamed)}))
    np.testing.assert_allclose(features(with_relu), features(without), rtol=1e-5)
    assert np.abs(features(made) - FEATURES[1, 1, 'no']).max() > 0.01


def vit_of_transformers(new: bool) -> tuple[State, State]:
    """A ViT under the names of transformers before and since version 5, and under timm's."""
    rng = np.random.default_rng(0)

    def x(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    theirs = {'embeddings.cls_token': x(1, 1, 8), 'embeddings.position_embeddings': x(1, 5, 8),
              'embeddings.patch_embeddings.projection.weight': x(8, 3, 4, 4),
              'embeddings.patch_embeddings.projection.bias': x(8), 'layernorm.weight': x(8), 'layernorm.bias': x(8),
              'pooler.dense.weight': x(8, 8)}  # fmt: skip
    timm = dict(zip(('cls_token', 'pos_embed', 'patch_embed.proj.weight', 'patch_embed.proj.bias', 'norm.weight',
                     'norm.bias'), theirs.values(), strict=False))  # fmt: skip
    old_names = {'norm1': 'layernorm_before', 'norm2': 'layernorm_after', 'mlp.fc1': 'intermediate.dense',
                 'mlp.fc2': 'output.dense', 'attn.proj': 'attention.output.dense'}  # fmt: skip
    new_names = {**old_names, 'mlp.fc1': 'mlp.fc1', 'mlp.fc2': 'mlp.fc2', 'attn.proj': 'attention.o_proj'}
    shapes = {'norm1': (8,), 'norm2': (8,), 'mlp.fc1': (32, 8), 'mlp.fc2': (8, 32), 'attn.proj': (8, 8)}
    for i in range(2):
        block = f'layers.{i}' if new else f'encoder.layer.{i}'
        for module, shape in shapes.items():
            for leaf, size in (('weight', shape), ('bias', shape[:1])):
                timm[f'blocks.{i}.{module}.{leaf}'] = array = x(*size)
                theirs[f'{block}.{(new_names if new else old_names)[module]}.{leaf}'] = array
        for leaf, size in (('weight', (8, 8)), ('bias', (8,))):
            parts = [x(*size) for _ in range(3)]
            timm[f'blocks.{i}.attn.qkv.{leaf}'] = np.concatenate(parts)
            for kind, array in zip(('query', 'key', 'value'), parts, strict=True):
                place = f'{kind[0]}_proj' if new else f'attention.{kind}'
                theirs[f'{block}.attention.{place}.{leaf}'] = array
    return theirs, timm


@pytest.mark.parametrize('new', [False, True])
def test_a_vit_of_transformers(tmp_path: Path, new: bool) -> None:
    theirs, timm = vit_of_transformers(new)
    published_files.write(tmp_path / 'x.pth', prefixed('vit.', theirs))
    with pytest.raises(UserError, match='weights do not record its number of heads'):
        pretrained.load(tmp_path / 'x.pth')
    described = {'model_type': 'vit', 'hidden_size': 8, 'num_hidden_layers': 2, 'num_attention_heads': 2,
                 'intermediate_size': 32, 'patch_size': 4, 'layer_norm_eps': 1e-12, 'qkv_bias': True}  # fmt: skip
    (tmp_path / 'config.json').write_text(json.dumps(described))
    made = pretrained.load(tmp_path / 'x.pth')
    (tmp_path / 'config.json').unlink()
    published_files.write(tmp_path / 'y.pth', timm)
    same = pretrained.load(tmp_path / 'y.pth', encoder='dino_small,width=8,depth=2,num_heads=2,patch_size=4')
    assert made.fingerprint == same.fingerprint
    assert (made.module.layer_norm_epsilon, same.module.layer_norm_epsilon) == (1e-12, 1e-6)  # type: ignore[attr-defined]


# ================================ a network that was pickled as a whole ================================


def test_a_whole_network(tmp_path: Path) -> None:
    """torch.save(model): modules are objects whose attributes hold their parameters, buffers and modules."""
    writers, arrays = published_files.writers, list(STATE.values())
    keys = {name: str(i) for i, name in enumerate(STATE)}

    def module(prefix: str) -> bytes:
        below = {name.removeprefix(prefix) for name in STATE if name.startswith(prefix)}
        inner = sorted({name.split('.')[0] for name in below if '.' in name})
        held: dict[str, dict[str, bytes]] = {'_parameters': {}, '_buffers': {}}
        for leaf in below - {name for name in below if '.' in name}:
            kind = '_buffers' if 'running' in leaf else '_parameters'
            held[kind][leaf] = writers._tensor(keys[prefix + leaf], STATE[prefix + leaf], ())
        state = {kind: writers._dict(items) for kind, items in held.items()}
        state['_modules'] = writers._dict({name: module(f'{prefix}{name}.') for name in inner})
        return b'cmodels.resnet\nResNet\n)\x81' + writers._dict({**state, 'training': b'\x89'}) + b'b'

    for content in (module(''), writers._dict({'model': module(''), 'epoch': b'K\x01'})):
        published_files.write_zip(tmp_path / 'x.pth', b'\x80\x02' + content + b'.', arrays)
        made = pretrained.load(tmp_path / 'x.pth')
        np.testing.assert_array_equal(made.params['conv1']['kernel'], STATE['conv1.weight'].transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(made.stats['bn1']['var'], STATE['bn1.running_var'])


# ================================ near relatives ================================


@pytest.mark.parametrize(
    ('name', 'what'),
    [
        ('resnetblur18', 'blur pooling'), ('resnetblur50.bt_in1k', 'blur pooling'), ('resnetaa50', 'anti-aliased'),
        ('resnet50d', 'deep stem'), ('resnet26t', 'deep stem'), ('gluon_resnet50_v1s', 'deep stem'),
        ('resnext50_32x4d', 'grouped'), ('wide_resnet50_2', 'wider'), ('seresnet50', 'channel attention'),
        ('ecaresnet50', 'channel attention'), ('resnetv2_50', 'pre-activation'),
        ('resnet50_gn', 'other blocks or norms'),
        ('vit_small_patch14_reg4_dinov2', 'DINOv2'), ('vit_base_patch16_rpn_224', 'other norms'),
        ('vit_base_patch16_clip_224', 'CLIP'), ('deit_tiny_distilled_patch16_224', 'distillation token'),
        ('deit3_small_patch16_224', 'LayerScale'), ('vit_small_r26_s32_224', 'convolutional network'),
    ],
)  # fmt: skip
def test_a_relative_by_its_name(tmp_path: Path, name: str, what: str) -> None:
    """Beside the weights: `arch`, the arguments of timm, the hyperparameters of Lightning, timm's config.json."""
    for beside in (
        {'arch': name},
        {'args': b'cargparse\nNamespace\n)\x81' + published_files._spelled({'model': name}) + b'b'},
        {'hyper_parameters': {'backbone': {'name': name, 'kwargs': {}}}},
        {'pretrained_cfg': {'architecture': name}},
    ):
        path = published_files.write(tmp_path / 'x.pth', {**beside, 'state_dict': STATE})
        with pytest.raises(UserError, match=rf'is of another network: .*{name!r}.*which has .*{what}.*are supported'):
            pretrained.load(path)
    (tmp_path / 'config.json').write_text(json.dumps({'architecture': name}))
    with pytest.raises(UserError, match='is of another network'):
        pretrained.load(published_files.write(tmp_path / 'x.pth', STATE))


@pytest.mark.parametrize(
    'name',
    ['resnet18', 'resnet50', 'tv_resnet50', 'gluon_resnet50_v1b', 'ssl_resnet18', 'resnet50.a1_in1k', 'ResNet',
     'resnet18_test',
     'vit_small_patch16_224', 'vit_small_patch16_224.dino', 'deit_small_patch16_224', 'vit_base', 'moco', 'retrieval'],
)  # fmt: skip
def test_other_names_are_no_relatives(name: str) -> None:
    assert relatives.by_architecture({'arch': name, 'args': {'model': name}}, f'{name}.pth') == ''


def test_a_relative_by_its_file_name(tmp_path: Path) -> None:
    """Blur pooling has no arrays, and timm's own files hold nothing beside the weights."""
    path = published_files.write(tmp_path / 'resnetblur18-84f4748f.pth', STATE)
    with pytest.raises(UserError, match=r'its file name .* names one with blur pooling'):
        pretrained.load(path)
    encoder = {'name': 'resnet18', 'stage_sizes': [1, 1, 1, 1], 'width': 4, 'stem': 'cifar'}
    assert pretrained.load(path, encoder=encoder).architecture == encoder


@pytest.mark.parametrize(
    ('name', 'shape', 'what'),
    [
        ('layer1.0.se.fc1.weight', (4, 4, 1, 1), 'squeeze-and-excitation'),
        ('layer2.0.conv2.1.filt', (4, 1, 3, 3), 'blur pooling'),
        ('layer2.0.downsample.1.weight', (8, 4, 1, 1), 'average pooling in its shortcuts'),
        ('layer1.0.conv2.weight', (4, 2, 3, 3), 'grouped convolutions'),
    ],
)
def test_a_relative_of_a_resnet_by_its_arrays(tmp_path: Path, name: str, shape: tuple[int, ...], what: str) -> None:
    state = {**STATE, name: np.ones(shape, np.float32)}
    with pytest.raises(UserError, match=rf'is of another network, with {what}.*\({".*" if "group" in what else ""}'):
        pretrained.load(published_files.write(tmp_path / 'x.pth', {'model': prefixed('backbone.', state)}))


@pytest.mark.parametrize(
    ('name', 'what'),
    [
        ('reg_token', 'register tokens'), ('blocks.0.ls1.gamma', 'LayerScale'), ('dist_token', 'distillation token'),
        ('blocks.0.attn.relative_position_bias_table', 'relative positions'), ('blocks.0.mlp.w12.weight', 'SwiGLU'),
        ('patch_embed.norm.weight', 'dual patch norm'), ('blocks.0.attn.q_norm.weight', 'normalized queries'),
        ('fc_norm.weight', 'average pool'), ('rope.periods', 'rotary'),
    ],
)  # fmt: skip
def test_a_relative_of_a_vit_by_its_arrays(tmp_path: Path, name: str, what: str) -> None:
    _, timm = vit_of_transformers(False)
    state = {**timm, name: np.ones(8, np.float32)}
    with pytest.raises(UserError, match=f'is of another network, with .*{what}'):
        pretrained.load(published_files.write(tmp_path / 'x.pth', state))
    state = {key: x for key, x in timm.items() if key != 'cls_token'}
    with pytest.raises(UserError, match='with no class token'):
        pretrained.load(published_files.write(tmp_path / 'x.pth', state))


@pytest.mark.parametrize(
    ('name', 'what'),
    [
        ('stages.0.blocks.0.conv_dw.weight', 'a ConvNeXt'), ('stem.conv.weight', 'ResNetV2'),
        ('conv1.0.weight', 'deep stem'), ('patch_embed.backbone.stem.conv.weight', 'hybrid'),
        ('features.denseblock1.denselayer1.norm1.weight', 'DenseNet'), ('conv_stem.weight', 'EfficientNet'),
    ],
)  # fmt: skip
def test_another_family(tmp_path: Path, name: str, what: str) -> None:
    path = published_files.write(tmp_path / 'x.pth', {'state_dict': prefixed('model.', {name: np.ones((4, 3, 3, 3))})})
    with pytest.raises(UserError, match=rf'is of another network, .*{what}.*are supported'):
        pretrained.load(path)
