"""Checkpoints in exactly the published formats give the features that PyTorch computed with them (golden)."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from contrastive_jax import pretrained
from contrastive_jax.config.build import build_policy
from contrastive_jax.errors import UserError
from contrastive_jax.models.patch_embed import ConvStem
from contrastive_jax.models.positions import sincos_position
from contrastive_jax.models.resnet import ResNet
from contrastive_jax.pretrained import architecture, forms, names, pixels, published
from contrastive_jax.pretrained.assemble import assemble, shapes
from contrastive_jax.pretrained.discover import discover
from tests import goldens, train_steps
from tests.pretrained import published_files
from tests.pretrained.published_files import prefixed

State = dict[str, np.ndarray]

RESNET, MOCOV3, DINO = (
    goldens.first(kind, type_) for kind, type_ in (('resnet', 'resnet'), ('mocov3_vit', 'vit'), ('dino_vit', 'vit'))
)


def vit_fields(case: goldens.Case) -> dict[str, Any]:
    """The section `encoder` of a golden ViT, less its name."""
    same = ('depth', 'num_heads', 'patch_size', 'mlp_ratio', 'qkv_bias', 'layer_norm_epsilon')
    return {'width': case.fields['embed_dim'], **{name: case.fields[name] for name in same}}


def state_of(case: goldens.Case) -> State:
    """A golden state dict as torch saves it: float32, with the counters of batch norms, without head."""
    state = {name: x.astype(np.float32) for name, x in case.tree(case.fields['parameters']).items()}
    counters = {
        name.replace('running_var', 'num_batches_tracked'): np.array(7)
        for name in state
        if name.endswith('running_var')
    }
    return {name: x for name, x in {**state, **counters}.items() if not name.startswith(('fc.', 'head.'))}


def moco_vit() -> State:
    """MoCo v3 saves its fixed positions in the file."""
    return {'pos_embed': MOCOV3.key(MOCOV3.fields['position']).astype(np.float32), **state_of(MOCOV3)}


def noise(state: State) -> State:
    """A different network of the same shapes."""
    return {name: np.full_like(x, 3) for name, x in state.items()}


def features(made: pretrained.Encoder, x: np.ndarray) -> np.ndarray:
    images = x.transpose(0, 2, 3, 1).astype(np.float32)
    with jax.default_matmul_precision('highest'):
        return np.asarray(jax.jit(lambda v: made.module.apply(v, images, train=False))(made.variables))


def check_resnet(made: pretrained.Encoder, case: goldens.Case) -> None:
    state = case.tree(case.fields['parameters'])
    h = features(made, case.key(case.fields['input']))
    y = h @ state['fc.weight'].T + state['fc.bias']
    goldens.assert_close(y, case.key(case.fields['modes']['eval']['output']), case.tolerances['float32'])


def check_vit(made: pretrained.Encoder) -> None:
    x, expected = (MOCOV3.key(MOCOV3.fields[name]) for name in ('input', 'features'))
    goldens.assert_close(features(made, x), expected, MOCOV3.tolerances['float32'])


def check_dino(made: pretrained.Encoder) -> None:
    for image in DINO.fields['images']:
        h = features(made, DINO.key(image['input']))
        goldens.assert_close(h, DINO.key(image['output']), DINO.tolerances['float32'])


def linear(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


r = state_of(RESNET)
MLP = {f'{i}.{leaf}': linear(4, 4) for i in (0, 2) for leaf in ('weight', 'bias')}
QUEUE = {'module.queue': linear(4, 8), 'module.queue_ptr': np.zeros(1, np.int64)}
OPTIMIZER = {'state': {}, 'param_groups': [{'lr': 0.03, 'params': [0, 1]}]}

RESNET_FILES: dict[str, tuple[str, dict[str, Any]]] = {
    'moco v1': ('moco', {'epoch': 200, 'arch': 'resnet50', 'state_dict': {
        **prefixed('module.encoder_q.', {**r, 'fc.weight': linear(4, 4), 'fc.bias': linear(4)}),
        **prefixed('module.encoder_k.', noise(r)), **QUEUE,
    }, 'optimizer': OPTIMIZER}),
    'moco v2': ('moco', {'epoch': 800, 'arch': 'resnet50', 'state_dict': {
        **prefixed('module.encoder_q.', {**r, **prefixed('fc.', MLP)}),
        **prefixed('module.encoder_k.', {**noise(r), **prefixed('fc.', MLP)}), **QUEUE,
    }}),
    'moco v3': ('mocov3', {'epoch': 1000, 'arch': 'resnet50', 'state_dict': {
        **prefixed('module.base_encoder.', {**r, 'fc.0.weight': linear(4, 4), 'fc.1.running_mean': linear(4)}),
        **prefixed('module.momentum_encoder.', {**noise(r), 'fc.0.weight': linear(4, 4)}),
        'module.predictor.0.weight': linear(4, 4),
    }}),
    'simsiam': ('simsiam', {'epoch': 100, 'arch': 'resnet50', 'state_dict': {
        **prefixed('module.encoder.', {**r, **prefixed('fc.', MLP)}), 'module.predictor.0.weight': linear(4, 4),
    }}),
    'swav': ('swav', {
        **prefixed('module.', r),
        'module.projection_head.0.weight': linear(4, 4), 'module.prototypes.weight': linear(4),
    }),
    'deepcluster-v2': ('swav', {'epoch': 800, 'state_dict': {
        **prefixed('module.', r), 'module.projection_head.0.weight': linear(4, 4),
        'module.prototypes.prototypes0.weight': linear(4),
    }}),
    'dino resnet': ('dino', {
        'student': prefixed('module.backbone.', noise(r)),
        'teacher': {**prefixed('module.backbone.', r), 'module.head.last_layer.weight_g': linear(4)},
        'epoch': 800, 'args': b'cargparse\nNamespace\n)\x81}(U\x02lrK\x01ub',
    }),
    'instdis': ('instdis', {'epoch': 199, 'arch': 'resnet50', 'state_dict': {
        **prefixed('module.', r), 'module.fc.weight': linear(4, 4), 'module.fc.bias': linear(4),
    }, 'lemniscate': b'clib.NCEAverage\nNCEAverage\n)\x81}(U\x06paramsK\x01ub', 'best_prec1': 0.5}),
    'torchvision': ('plain', {**r, 'fc.weight': linear(4, 4), 'fc.bias': linear(4)}),
}  # fmt: skip


DESCRIBED = ('stage_sizes', 'width', 'width_multiplier', 'stem')  # what tells a ResNet from the one with its name


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize('name', RESNET_FILES)
def test_resnet(tmp_path: Path, name: str, legacy: bool) -> None:
    form, sections = RESNET_FILES[name]
    said: list[str] = []
    made = pretrained.load(published_files.write(tmp_path / 'x.pth.tar', sections, legacy), say=said.append)
    assert f' (form={form})' in said[0]
    assert said[-1].startswith('input: rgb, minus mean (0.485, 0.456, 0.406), divided by std (0.229, 0.224, 0.225)')
    module, f = made.module, RESNET.fields
    assert isinstance(module, ResNet) and set(made.architecture) <= {*DESCRIBED, 'name'}
    assert (module.block, module.stem, module.stem_width) == (f['block'], f['stem'], None)
    assert (list(module.stage_sizes), module.width * module.width_multiplier) == (f['stage_sizes'], f['width'])
    reference = assemble(made.architecture, _by_path(made, r), made.image_size, 'x').flat
    assert set(made.flat) == set(reference)
    for path, x in made.flat.items():
        np.testing.assert_array_equal(x, reference[path])
    if name == 'moco v2' and not legacy:
        check_resnet(made, RESNET)


def _by_path(made: pretrained.Encoder, state: State) -> dict[str, np.ndarray]:
    """The state dict by our paths and in our layout, converted independently of the library."""
    arrays = {}
    for path in made.flat:
        _, *modules, leaf = path.split('/')
        module = re.sub(r'^(layer\d+)_(\d+)', r'\1.\2', '.'.join(modules))
        module = module.replace('downsample_conv', 'downsample.0').replace('downsample_bn', 'downsample.1')
        torch = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}.get(leaf, leaf)
        x = state[f'{module}.{torch}']
        arrays[path] = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x
    return arrays


@pytest.mark.parametrize('param', goldens.cases('resnet', 'resnet'))
def test_every_kind_of_resnet(tmp_path: Path, param: goldens.Case) -> None:
    made = pretrained.load(published_files.write(tmp_path / 'x.pth', state_of(param)))
    assert made.architecture['stem'] == param.fields['stem']
    check_resnet(made, param)


@pytest.mark.parametrize(
    ('name', 'networks', 'default'),
    [
        ('moco v2', {'online': 'query encoder', 'target': 'key encoder'}, 'online'),
        ('moco v3', {'online': 'base encoder', 'target': 'momentum encoder'}, 'online'),
        ('dino resnet', {'online': 'student', 'target': 'teacher'}, 'target'),
    ],
)
def test_either_network(tmp_path: Path, name: str, networks: dict[str, str], default: str) -> None:
    """By default the one that the authors evaluate; in these files the arrays of the other one are all 3."""
    path = published_files.write(tmp_path / 'x.pth', RESNET_FILES[name][1])
    for weights in (None, 'online', 'target'):
        said: list[str] = []
        found = pretrained.load(path, weights, say=said.append)
        taken = weights or default
        other = networks['online' if taken == 'target' else 'target']
        assert said[1] == f'network: {networks[taken]} (weights={taken}); the file also contains the {other}'
        assert found.source == f'{path}, {networks[taken]}'
        kernel = np.full_like(r['conv1.weight'], 3) if taken != default else r['conv1.weight']
        np.testing.assert_array_equal(found.params['conv1']['kernel'], kernel.transpose(2, 3, 1, 0))


def test_one_of_two_networks_alone(tmp_path: Path) -> None:
    """A file from which the other network was removed: the remaining one is found, and no other."""
    path = published_files.write(tmp_path / 'x.pth', {'state_dict': prefixed('module.encoder_k.', r)})
    said: list[str] = []
    pretrained.load(path, say=said.append)
    assert said[1] == 'network: key encoder (weights=target)'
    with pytest.raises(UserError, match="is in no known checkpoint format with weights 'online'"):
        pretrained.load(path, 'online')


@pytest.mark.parametrize('name', ['simsiam', 'swav', 'instdis', 'torchvision'])
def test_one_network(tmp_path: Path, name: str) -> None:
    form, sections = RESNET_FILES[name]
    path = published_files.write(tmp_path / 'x.pth', sections)
    assert pretrained.load(path, 'online').source == str(path)
    with pytest.raises(UserError, match=f"the format {form}, which holds one network -> choose weights 'online'"):
        pretrained.load(path, 'target')


def test_a_form_that_does_not_fit(tmp_path: Path) -> None:
    path = published_files.write(tmp_path / 'x.pth', RESNET_FILES['moco v2'][1])
    with pytest.raises(UserError, match='is not a dino checkpoint'):
        pretrained.load(path, form='dino')
    with pytest.raises(UserError, match=r"form 'mocco' is unknown; did you mean 'moco'\? -> choose from moco, "):
        pretrained.load(path, form='mocco')
    with pytest.raises(UserError, match="weights 'teacher' is unknown -> choose online or target"):
        pretrained.load(path, 'teacher')
    with pytest.raises(UserError, match=r"pixels 'imagnet' is unknown; did you mean 'imagenet'\? -> choose"):
        pretrained.load(path, pixels='imagnet')


def test_pixels(tmp_path: Path) -> None:
    path, said = published_files.write(tmp_path / 'x.pth', RESNET_FILES['torchvision'][1]), []
    assert pretrained.load(path, say=said.append).policy.mean == (0.485, 0.456, 0.406)
    assert ', the default: x.pth does not record it -> give pixels=imagenet if it is right, half or unit' in said[-1]
    assert said[-1].endswith(', or load the run that it is from')
    assert pretrained.load(path, pixels='half', say=said.append).policy.mean == (0.5, 0.5, 0.5)
    assert said[-1] == 'input: rgb, minus mean (0.5, 0.5, 0.5), divided by std (0.5, 0.5, 0.5)'


def half_shapes(channels: int) -> dict[str, tuple[int, ...]]:
    """One of CMC's halves, with a basic block in each of four stages and a stem wider than the first."""

    def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
        return {f'{name}.{leaf}': (width,) for leaf in ('weight', 'bias', 'running_mean', 'running_var')}

    shapes = {'conv1.weight': (16, channels, 7, 7), **norm('bn1', 16)}
    for stage, (before, after) in enumerate(((16, 8), (8, 16), (16, 32), (32, 64)), start=1):
        at = f'layer{stage}.0'
        shapes |= {f'{at}.conv1.weight': (after, before, 3, 3), f'{at}.conv2.weight': (after, after, 3, 3)}
        shapes |= {f'{at}.downsample.0.weight': (after, before, 1, 1), **norm(f'{at}.downsample.1', after)}
        shapes |= {**norm(f'{at}.bn1', after), **norm(f'{at}.bn2', after)}
    return shapes


def test_cmc(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    halves = {}
    for half, channels in (('l_to_ab', 1), ('ab_to_l', 2)):
        state = {name: rng.uniform(0.5, 1, shape).astype(np.float32) for name, shape in half_shapes(channels).items()}
        halves |= prefixed(f'{half}.', {**state, 'fc.weight': linear(4, 4), 'fc.bias': linear(4)})
    sections = {'opt': b'cargparse\nNamespace\n)\x81}(U\x02lrK\x01ub', 'model': prefixed('encoder.module.', halves)}
    made = pretrained.load(published_files.write(tmp_path / 'x.pth', sections))
    assert made.architecture['name'] == 'split_resnet_tiny'
    assert made.architecture['stem_width'] == 16
    assert pixels.fields(made.policy) == pixels.fields(build_policy(train_steps.load('cmc')))
    kernel = made.variables['params']['ab']['conv1']['kernel']
    np.testing.assert_array_equal(kernel, halves['ab_to_l.conv1.weight'].transpose(2, 3, 1, 0))


# ================================ ViTs ================================

MOCOV3_FILE = {'epoch': 300, 'arch': 'vit_small', 'state_dict': {
    **prefixed('module.base_encoder.', {**moco_vit(), 'head.0.weight': linear(4, 4)}),
    **prefixed('module.momentum_encoder.', {**noise(moco_vit()), 'head.0.weight': linear(4, 4)}),
    'module.predictor.0.weight': linear(4, 4),
}}  # fmt: skip

d = state_of(DINO)
DINO_FILES: dict[str, dict[str, Any]] = {
    'full': {
        'student': {**prefixed('module.backbone.', noise(d)), 'module.head.mlp.0.weight': linear(4, 4)},
        'teacher': {**prefixed('backbone.', d), 'head.mlp.0.weight': linear(4, 4)},
    },
    'backbone': d,
}


def test_mocov3_vit(tmp_path: Path) -> None:
    path = published_files.write(tmp_path / 'x.pth.tar', MOCOV3_FILE)
    fields, (height, width) = {'name': 'vit_small', **vit_fields(MOCOV3)}, MOCOV3.fields['grid']
    sizes = f'ViT of width {fields["width"]} and depth {fields["depth"]}'
    with pytest.raises(UserError, match=f'{sizes}, and weights do not record its number of heads'):
        pretrained.load(path)
    if height != width:  # the positions of a grid are known to be the fixed ones if it is square
        with pytest.raises(UserError, match='not that of a square grid'):
            pretrained.load(path, encoder=fields)
    check_vit(pretrained.load(path, encoder=fields, drop=() if height == width else ('*.pos_embed',)))


@pytest.mark.parametrize('name', DINO_FILES)
def test_dino_vit(tmp_path: Path, name: str) -> None:
    made = pretrained.load(
        published_files.write(tmp_path / 'x.pth', DINO_FILES[name]), encoder={'name': 'dino_small', **vit_fields(DINO)}
    )
    assert made.image_size == DINO.fields['image_size']
    check_dino(made)


def vit_state(width: int, depth: int, patch: int, position: np.ndarray | None) -> State:
    """A state dict of a ViT in which only the shapes matter."""
    state = {'cls_token': linear(1, 1, width), 'patch_embed.proj.weight': linear(width, 3, patch, patch)}
    state |= {f'blocks.{i}.norm1.weight': linear(width) for i in range(depth)}
    return state if position is None else {**state, 'pos_embed': position[None].astype(np.float32)}


def test_heads_of_small_vits() -> None:
    """12 heads in MoCo v3, 6 elsewhere: the parameters are the same, but the features differ."""
    fixed, learned = sincos_position(14, 14, 384), np.full((197, 384), 0.5)
    assert architecture.describe(vit_state(384, 12, 16, fixed), 'vit') == {'name': 'vit_small', 'patch_size': 16}
    assert architecture.describe(vit_state(384, 12, 8, learned), 'dino') == {'name': 'dino_small', 'patch_size': 8}
    assert architecture.describe(vit_state(384, 12, 16, learned), '')['name'] == 'dino_small'
    with pytest.raises(UserError, match=r'has 12 heads, but may be another ViT with 6 heads -> give encoder=vit_small'):
        architecture.describe(vit_state(384, 12, 16, fixed), '')


def test_image_size_without_positions() -> None:
    """The multiple of the patch size that is closest to 224; with positions, what they were made for."""
    for patch, size in ((16, 224), (14, 224), (15, 225), (300, 300)):
        assert architecture.image_size({'patch_size': patch}, vit_state(8, 1, patch, None)) == size
    assert architecture.image_size({'patch_size': 15}, vit_state(8, 1, 15, np.zeros((10, 8)))) == 45


def test_positions_of_mocov3_must_be_the_fixed_ones(tmp_path: Path) -> None:
    state = dict(MOCOV3_FILE['state_dict'])  # type: ignore[call-overload]
    fixed = sincos_position(3, 3, MOCOV3.fields['embed_dim'])[None]
    state['module.base_encoder.pos_embed'] = np.asarray(fixed + 0.01, np.float32)
    path = published_files.write(tmp_path / 'x.pth', {'state_dict': state})
    with pytest.raises(UserError, match=r'pos_embed differs from sin-cos positions by up to 0\.01'):
        pretrained.load(path, encoder={'name': 'vit_small', **vit_fields(MOCOV3)})


def test_convolutional_stem(tmp_path: Path) -> None:
    found = goldens.cases('mocov3_vit', 'conv_stem')
    if not found:
        pytest.skip('the golden set has no convolutional stem')
    case = found[0].values[0]
    D = case.fields['embed_dim']
    stem = {name: x.astype(np.float32) for name, x in case.tree(case.fields['parameters']).items()}
    stem = {name: x for name, x in stem.items() if 'running' not in name}
    after = {name: x.astype(np.float32) for name, x in case.tree(case.fields['running_after']).items()}
    body = {'cls_token': linear(1, 1, D), 'norm.weight': linear(D), 'norm.bias': linear(D)}
    for i in range(2):
        for layer, shape in (
            ('norm1', (D,)), ('attn.qkv', (3 * D, D)), ('attn.proj', (D, D)),
            ('norm2', (D,)), ('mlp.fc1', (4 * D, D)), ('mlp.fc2', (D, 4 * D)),
        ):  # fmt: skip
            body |= {f'blocks.{i}.{layer}.weight': linear(*shape), f'blocks.{i}.{layer}.bias': linear(shape[0])}
    state = {**prefixed('patch_embed.', {**stem, **after}), **body}
    fields = {'name': 'vit_conv_small', 'width': D, 'depth': 2, 'num_heads': 2}
    made = pretrained.load(published_files.write(tmp_path / 'x.pth', state), encoder=fields)
    x = case.key(case.fields['input']).transpose(0, 2, 3, 1).astype(np.float32)
    assert made.module.stem == 'conv'  # type: ignore[attr-defined]
    variables = {name: tree['patch_embed'] for name, tree in made.variables.items()}
    y = ConvStem(D).apply(variables, x, train=False)
    expected = case.key(case.fields['output_eval'])
    goldens.assert_close(np.asarray(y).reshape(expected.shape), expected, case.tolerances['float32'])


# ================================ files of other projects ================================

OTHER_PROJECTS: dict[str, tuple[dict[str, Any], str]] = {
    'DistributedDataParallel, compiled': (
        {'model_state_dict': prefixed('module._orig_mod.', r), 'epoch': 3},
        "section 'model_state_dict', names module._orig_mod.*",
    ),
    'Lightning, lightly': (
        {
            'state_dict': {
                **prefixed('backbone.', r),
                **prefixed('projection_head.layers.0.', {'weight': linear(8, 4)}),
            },
            'hyper_parameters': {'lr': 0.1},
        },
        "section 'state_dict', names backbone.*",
    ),
    'a section of its own': ({'encoder': r, 'step': 7}, "section 'encoder'"),
    'timm prefers the moving average': (
        {'state_dict': noise(r), 'state_dict_ema': {**r, 'fc.weight': linear(4, 4)}},
        "section 'state_dict_ema'",
    ),
}


@pytest.mark.parametrize('name', OTHER_PROJECTS)
def test_a_prefix_or_section_of_another_project(tmp_path: Path, name: str) -> None:
    content, place = OTHER_PROJECTS[name]
    said: list[str] = []
    made = pretrained.load(published_files.write(tmp_path / 'x.pth', content), say=said.append)
    assert said[0].endswith(place), said
    check_resnet(made, RESNET)


def test_places_in_nested_sections() -> None:
    nested = {'network': {'online': {'encoder': r}, 'target': prefixed('net.', r)}, 'optimizer': {'state': {}}}
    assert discover(nested) == [('network/online/encoder', ''), ('network/target', 'net.')]
    assert discover({'conv1.weight': 1, 'layer2.0.conv1.weight': 2}) == [], 'a stem alone is no encoder'


def test_several_encoders_are_chosen_by_prefix_or_section(tmp_path: Path) -> None:
    both = {**prefixed('student.backbone.', noise(r)), **prefixed('teacher.backbone.', r)}
    path = published_files.write(tmp_path / 'x.pth', {'state_dict': both})
    with pytest.raises(
        UserError, match=r'contains 2 encoders .*prefix=student\.backbone\..* -> choose one with prefix'
    ):
        pretrained.load(path)
    for given in ('teacher.backbone.', 'teacher.backbone'):
        check_resnet(pretrained.load(path, prefix=given), RESNET)
    with pytest.raises(UserError, match=r"has no encoder with prefix 'backbone' \(encoders in it: section=state_dict "):
        pretrained.load(path, prefix='backbone')
    with pytest.raises(UserError, match="has no encoder with section 'model'"):
        pretrained.load(path, section='model')
    with pytest.raises(UserError, match='leave out section and prefix, or form'):
        pretrained.load(path, form='moco', prefix='teacher.backbone')


def test_another_network_below_a_prefix_is_refused(tmp_path: Path) -> None:
    """Squeeze and excitation: the names of a ResNet, and more within its blocks."""
    state = {**r, 'layer1.0.se.fc1.weight': linear(4, 4)}
    path = published_files.write(tmp_path / 'x.pth', {'model': prefixed('net.', state)})
    with pytest.raises(UserError, match=r'layer1\.0\.se\.fc1'):
        pretrained.load(path)


# ================================ strictness ================================


def change(**changes: Any) -> dict[str, Any]:
    """The torchvision file with arrays added, replaced, or (None) removed."""
    state = {**r, **{name.replace('__', '.'): x for name, x in changes.items()}}
    return {name: x for name, x in state.items() if x is not None}


LAST_MEAN = f'layer{len(RESNET.fields["stage_sizes"])}.0.bn1.running_mean'


@pytest.mark.parametrize(
    ('sections', 'line'),
    [
        (change(aux__weight=linear(2)), r'aux\.weight \[2\] is unexpected'),
        (change(bn1__bias=None), r'bn1/bias \[\d+\] is missing'),
        (change(bn1__bias=linear(1)), r'params/bn1/bias has shape \[1\] instead of \[\d+\]'),
        (change(**{LAST_MEAN: linear(1)}), r'mean has shape \[1\] instead of'),
        (change(conv1__weight=r['conv1.weight'] * np.float32('nan')), r'contains NaN or infinity: params/conv1/kernel'),
        ({name.replace('layer', 'stage'): x for name, x in r.items()}, r'is unexpected.*and \d+ more'),
        ({'x': np.ones(3)}, 'is in no known checkpoint format'),
        (
            {'state_dict': {**prefixed('module.encoder_q.', r), 'module.other': linear(2)}},
            '-> skip them with drop=module.other',
        ),
    ],
)
def test_every_name_is_accounted_for(tmp_path: Path, sections: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        pretrained.load(published_files.write(tmp_path / 'x.pth', sections))


def test_a_file_of_something_else(tmp_path: Path) -> None:
    for held in (b'\x80\x02].', b'\x80\x02K\x05.', b'\x80\x02}K\x05K\x06s.', b'\x80\x02}.'):
        published_files.write_zip(tmp_path / 'x.pth', held)
        with pytest.raises(UserError, match='is in no known checkpoint format'):
            pretrained.load(tmp_path / 'x.pth')
    np.savez(tmp_path / 'x.npz', **{name: x.astype(str) for name, x in r.items()})
    with pytest.raises(
        UserError, match=r'cannot be read at \S+: it contains an array of dtype <U\d+ instead of real numbers'
    ):
        pretrained.load(tmp_path / 'x.npz')


def test_names_that_are_dropped_are_listed(tmp_path: Path) -> None:
    path = published_files.write(tmp_path / 'x.pth', change(aux__weight=linear(2)))
    said: list[str] = []
    pretrained.load(path, drop=('aux.*',), say=said.append)
    assert 'skipped, as asked: aux.weight' in said


def test_another_architecture(tmp_path: Path) -> None:
    path = published_files.write(tmp_path / 'x.pth', r)
    with pytest.raises(UserError, match=r'does not match the encoder resnet50: .*is missing.*and \d+ more'):
        pretrained.load(path, encoder={'name': 'resnet50'})
    with pytest.raises(UserError, match=r"encoder\.name 'resnet51' is unknown; did you mean 'resnet50'"):
        pretrained.load(path, encoder={'name': 'resnet51'})
    with pytest.raises(UserError, match="no field 'heads'; did you mean 'num_heads'"):
        pretrained.load(path, encoder={'name': 'vit_small', 'heads': 6})


@pytest.mark.parametrize(
    'config',
    [
        {'name': 'resnet50', 'stem': 'imagenet'},
        {'name': 'resnet50', 'width_multiplier': 2, 'stem': 'imagenet'},
        {'name': 'resnet34', 'stem': 'cifar'},
        {'name': 'resnet_tiny', 'stem': 'cifar'},
        {'name': 'resnet50', 'width': 32, 'stem_width': 64, 'stem': 'imagenet'},
    ],
)
def test_architecture_is_told_by_names_and_shapes(config: dict[str, Any]) -> None:
    made = shapes(config, 32)
    state = {
        names.torch_names(made)[path]: names.to_torch(path, np.broadcast_to(np.float32(0), size))
        for path, size in made.items()
    }
    assert architecture.describe(state, '') == config


def test_parse_encoder() -> None:
    assert published.parse_encoder('vit_small') == {'name': 'vit_small'}
    assert published.parse_encoder('resnet50,stage_sizes=3x4x6x3,width=32,stem=cifar') == {
        'name': 'resnet50', 'stage_sizes': [3, 4, 6, 3], 'width': 32, 'stem': 'cifar',
    }  # fmt: skip
    fields = {'qkv_bias': False, 'layer_norm_epsilon': 1e-5, 'mlp_ratio': 4.0}
    assert published.parse_encoder('x,qkv_bias=false,layer_norm_epsilon=1e-5,mlp_ratio=4.') == {'name': 'x', **fields}
    with pytest.raises(UserError, match="'num_heads' is not FIELD=VALUE"):
        published.parse_encoder('vit_small,num_heads')


def test_every_form_has_words() -> None:
    assert forms.IN_WORDS.keys() == forms.FORMS.keys()
