"""What config files import: the base config with a comment on every field, ':variant' parsing, and validation."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from contrastive_jax.augment.patches import Patches
from contrastive_jax.augment.policy import Policy
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.knn import MIN_TEMPERATURE
from contrastive_jax.losses.cpc import CANDIDATES, DIRECTIONS
from contrastive_jax.methods import (
    CMC,
    CPC,
    DINO,
    METHODS,
    DeepCluster,
    InstDis,
    InvaSpread,
    MemoryBank,
    MoCo,
    SimCLR,
    SimCLRMemory,
    SwAV,
)
from contrastive_jax.methods.instdis import OBJECTIVES
from contrastive_jax.models import network
from contrastive_jax.models.cpc import CPC_ENCODERS, check_patches
from contrastive_jax.models.heads import MLP
from contrastive_jax.models.vit import VITS
from contrastive_jax.optim import is_below, parameter_path

Change = Callable[[ConfigDict], None]

DTYPES = ('float32', 'bfloat16')
OPTIMIZERS = ('sgd', 'adam', 'adamw', 'lars', 'lars_simclr', 'larc')
SCHEDULES = ('cosine', 'step', 'warmup_cosine', 'linspace_warmup_cosine', 'constant')

# Fields of encoder and heads that count something.
SIZES = (
    'patch_size', 'patch_stride', 'width', 'width_multiplier', 'depth', 'num_heads', 'num_layers', 'hidden_dim',
    'output_dim',
)  # fmt: skip


def base(method: str) -> ConfigDict:
    """The fields that every config has. A recipe fills in its paper's values.

    Args:
      method: a key of METHODS; its hyper-parameters become the section `method`, with the defaults of its class.
    """
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 256  # global, over all devices of all hosts
    c.epochs = 200.0  # length of training; an epoch drops its last, partial batch
    c.steps = 0  # length in steps instead; 0: from epochs
    c.bn_group_size = 0  # examples that share BN statistics, wherever they lie; 0: the whole global batch
    # Run the networks over the local batch in so many pieces and keep no activations (GradCache): memory of one piece,
    # about a third more time, and the same loss over the whole batch. BN groups have to lie within a piece.
    c.chunks = 1
    c.dtype = 'float32'  # of the computation, or 'bfloat16'; parameters, BN statistics and losses stay float32
    c.parallel = 'jit'  # 'jit': jit(shard_map) over all devices; 'pmap'

    c.log_every_steps = 50
    c.eval_every_steps = 5000  # kNN, linear probe, collapse signals, pictures; 0: only at the end
    c.checkpoint_every_steps = 5000  # and always at the end
    c.profile_steps = 0  # trace this many steps for TensorBoard's profiler, after the first hundred

    c.data = ConfigDict()
    c.data.source = 'tfds'  # 'digits' (embedded), 'npz', 'folder', 'tfds'
    c.data.name = ''  # of the TFDS data set
    c.data.path = ''  # the .npz file, the image folder, or the TFDS data_dir
    c.data.split = 'train'
    c.data.eval_split = 'test'  # 'test', 'validation' and 'val' stand in for each other
    c.data.image_size = 224  # height and width of a view
    c.data.on_device = True  # keep in-memory data on the device, and run many steps in one call
    c.data.workers = 0  # processes that decode images; 0: threads, which serve as well until there are many cores

    c.encoder = encoder('resnet50')
    c.projector = ConfigDict()  # `head(...)`
    c.predictor = ConfigDict()  # likewise; empty: none

    c.method = ConfigDict({'name': method})
    for field in dataclasses.fields(METHODS[method]):
        if field.name != 'network':
            c.method[field.name] = field.default

    c.augment = ConfigDict({field.name: field.default for field in dataclasses.fields(Policy)})

    c.optimizer = ConfigDict()
    c.optimizer.name = 'sgd'  # a name of OPTIMIZERS
    c.optimizer.learning_rate = 0.03  # at the batch size below
    c.optimizer.learning_rate_scaling = 'linear'  # x batch_size / learning_rate_batch; 'sqrt': x sqrt(batch_size)
    c.optimizer.learning_rate_batch = 0  # of 'linear'; 0: not scaled
    c.optimizer.momentum = 0.9  # of SGD, LARS and LARC
    c.optimizer.b1, c.optimizer.b2 = 0.9, 0.999  # of Adam and AdamW
    c.optimizer.weight_decay = 1e-4
    c.optimizer.final_weight_decay = -1.0  # moves there on half a cosine, at every step; -1: constant
    c.optimizer.mask = 'none'  # 'matrices': SGD and Adam decay no biases and norms; LARS never does, LARC always
    c.optimizer.clip_norm = 0.0  # of the gradient of every parameter tensor by itself; 0: not clipped
    # Parameter paths, e.g. ('encoder/patch_embed',): everything below them
    c.optimizer.constant = ()  # keep their first learning rate, whatever the schedule
    c.optimizer.freeze = ()  # are never trained
    c.optimizer.freeze_first = ()  # are not trained at first; momentum and weight decay rest too
    c.optimizer.freeze_epochs = 0.0  # for so long
    c.optimizer.freeze_steps = 0  # or for so many steps; 0: from epochs

    c.schedule = ConfigDict()
    # 'cosine' and 'step' change once an epoch, 'warmup_cosine' at every step; 'linspace_warmup_cosine': likewise, but
    # the warm-up ends a step early (SwAV, DINO); 'constant'
    c.schedule.name = 'cosine'
    c.schedule.final = 0.0  # learning rate at the end of a cosine, not scaled with the batch
    c.schedule.warmup_epochs = 0.0  # of 'warmup_cosine' and 'linspace_warmup_cosine'
    c.schedule.warmup_start = 0.0  # learning rate at its first step, not scaled with the batch
    c.schedule.milestones = (120, 160)  # of 'step', in epochs
    c.schedule.factor = 0.1  # of 'step', at each milestone
    c.schedule.factors = ()  # of 'step', instead: times the first learning rate, from each milestone on

    c.eval = ConfigDict()
    c.eval.knn_k = 200  # neighbours; fewer where the data has fewer
    c.eval.knn_temperature = 0.07
    c.eval.max_train = 50_000  # examples in the kNN bank and the probe's training set, evenly spaced
    c.eval.max_test = 10_000
    c.eval.batch_size = 512  # global
    return c


def encoder(name: str, **fields: Any) -> ConfigDict:
    """The section `encoder`: a name of models.network.ENCODERS, what users may set, and what the recipe sets.

    Args:
      name: e.g. 'resnet50', 'split_resnet50', 'vit_small'.
      **fields: of the module (models.resnet.ResNet, models.vit.VisionTransformer).
    """
    usual: dict[str, Any] = {'patch_size': 16}
    if name.removeprefix('split_').startswith('resnet'):
        # stem 'cifar': 3x3 without pooling, for images of about 32 pixels; width_multiplier 2 and 4: wider networks
        usual = {'stem': 'imagenet', 'width_multiplier': 1, 'zero_init_residual': False}
    elif name.startswith('cpc'):
        # norm 'layer' or 'none'; an image is cut into overlapping patches
        usual = {'stem': 'imagenet', 'norm': 'layer', 'patch_size': 80, 'patch_stride': 36}
    # remat: recompute activations in the backward pass: less memory, about a third more time
    return ConfigDict({'name': name, **usual, 'remat': False, **fields})


def head(num_layers: int, hidden_dim: int, output_dim: int, **fields: Any) -> ConfigDict:
    """The sections `projector` and `predictor`: a models.heads.MLP."""
    names = ('bias', 'batch_norm', 'last_batch_norm', 'last_batch_norm_affine')
    usual = {field.name: field.default for field in dataclasses.fields(MLP) if field.name in names}
    sizes = {'num_layers': num_layers, 'hidden_dim': hidden_dim, 'output_dim': output_dim}
    return ConfigDict({**sizes, **usual, **fields})


def patches(encoder: ConfigDict, **fields: Any) -> ConfigDict:
    """The section `augment.patches`, an augment.patches.Patches: images are cut as a CPC encoder cuts them."""
    usual = {field.name: field.default for field in dataclasses.fields(Patches)}
    return ConfigDict({**usual, 'size': encoder.patch_size, 'stride': encoder.patch_stride, **fields})


def apply_variants(config: ConfigDict, argument: str, variants: Mapping[str, Change]) -> ConfigDict:
    """Applies the comma-separated variants of `--config=file.py:small,cifar10`, in order, and locks the fields.

    Args:
      config: the paper's recipe; changed in place.
      argument: what stands behind the colon; may be empty.
      variants: name -> what it changes.

    Raises:
      UserError: an unknown variant.
    """
    for name in filter(None, (argument or '').split(',')):
        if name not in variants:
            near = difflib.get_close_matches(name, variants, n=1)
            meant = f'; did you mean {near[0]!r}?' if near else ''
            raise UserError(f'unknown variant {name!r}{meant} -> choose from {", ".join(variants)}')
        variants[name](config)
    config.lock()
    return config


def policy(config: ConfigDict) -> Policy:
    """The augmentation that `config.augment` describes."""
    return Policy(**config.augment.to_dict())


def build_network(config: ConfigDict) -> network.Network:
    """The network that the sections `encoder`, `projector` and `predictor` describe.

    Raises:
      UserError: an unknown name or field.
    """
    return network.build(
        config.encoder.to_dict(),
        config.projector.to_dict(),
        config.predictor.to_dict() or None,
        dtype=config.dtype,
        bn_group_size=config.bn_group_size or None,
        chunks=config.chunks,
    )


def check(config: ConfigDict, devices: int, processes: int = 1) -> list[str]:
    """Everything that is wrong with a config, one readable line each, found without compiling anything.

    Args:
      config: any config of the form that `base` makes.
      devices: number of devices of the run.
      processes: number of hosts.

    Returns:
      Lines that say what was given, the rule, and the remedy; empty if all is well.
    """
    c, found = config, []
    if lacking := _lacking(c):
        return [f'the config lacks {", ".join(lacking)} -> start from recipe.base(...), as the files in configs/ do']

    def rule(good: bool, line: str) -> None:
        if not good:
            found.append(line)

    def one_of(field: str, legal: Sequence[str]) -> None:
        value = _get(c, field)
        near = difflib.get_close_matches(str(value), legal, n=1)
        meant = f'; did you mean {near[0]!r}?' if near else ''
        rule(value in legal, f'{field} {value!r} is unknown{meant} -> choose from {", ".join(legal)}')

    def within(field: str, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
        x = _get(c, field)
        good = math.isfinite(x) and (low < x if open_low else low <= x) and x <= high
        legal = f'{"above" if open_low else "at least"} {low:g}' + (f' and at most {high:g}' if high < math.inf else '')
        rule(good, f'{field} {x!r} is out of range -> it must be {legal}')

    one_of('parallel', ('jit', 'pmap'))
    one_of('dtype', DTYPES)
    one_of('data.source', ('digits', 'npz', 'folder', 'tfds'))
    one_of('optimizer.name', OPTIMIZERS)
    one_of('optimizer.learning_rate_scaling', ('linear', 'sqrt'))
    one_of('optimizer.mask', ('none', 'matrices'))
    one_of('schedule.name', SCHEDULES)
    for field in ('batch_size', 'chunks', 'log_every_steps', 'data.image_size', 'eval.knn_k', 'eval.batch_size'):
        within(field, 1)
    for field in ('eval.max_train', 'eval.max_test'):
        within(field, 1)
    for field in ('steps', 'bn_group_size', 'eval_every_steps', 'profile_steps', 'data.workers'):
        within(field, 0)
    within('checkpoint_every_steps', 1)
    within('seed', 0, 2**31 - 1)
    if c.steps <= 0:
        within('epochs', 0, open_low=True)
    _check_training(c, within, rule)
    within('eval.knn_temperature', MIN_TEMPERATURE)

    B = c.batch_size
    if B >= 1:
        lower, upper = B // devices * devices, -(-B // devices) * devices
        nearest = f'{lower} or {upper}' if lower else f'{upper}'
        rule(B % devices == 0, f'batch_size {B} is not divisible by {devices} devices -> use {nearest}')
        rule(
            c.eval.batch_size % processes == 0,
            f'eval.batch_size {c.eval.batch_size} is not divisible by {processes} hosts -> use a multiple',
        )
        found += _check_groups(B, c.bn_group_size, devices) or _check_groups_of_views(c, devices)
        found += _check_chunks(c, devices)
    found += _check_method(c, within, one_of, rule)
    found += policy(c).problems()
    found += _check_network(c)
    return found or _check_parameters(c, devices)


def _lacking(config: ConfigDict) -> list[str]:
    """Fields that `base` has and this config has not: one of `encoder.name` as much as the whole section."""
    method = config.method.get('name') if isinstance(config.get('method'), ConfigDict) else None
    model = base(method if method in METHODS else 'moco')
    if method not in METHODS:
        model.method = ConfigDict({'name': ''})
    model.encoder = ConfigDict({'name': ''})  # its other fields have defaults
    lacking = []
    for name, value in model.items():
        given = config.get(name)
        if not isinstance(value, ConfigDict):
            lacking += [name] if name not in config else []
        elif not isinstance(given, ConfigDict):
            lacking.append(name)
        else:
            lacking += [f'{name}.{field}' for field in value if field not in given]
    return lacking


def _check_groups(batch: int, group: int, devices: int) -> list[str]:
    """BN groups must fill the devices evenly."""
    local = batch // devices
    if group <= 0 or batch % devices:
        return []
    if group > batch:
        return [f'bn_group_size {group} is larger than batch_size {batch} -> use 0 for the whole batch']
    if (group <= local and local % group == 0) or (group % local == 0 and batch % group == 0):
        return []
    if devices == 1:
        return [f'bn_group_size {group} does not divide batch_size {batch} -> use a divisor, or 0 for the whole batch']
    return [
        f'bn_group_size {group} does not fit {devices} devices of {local} examples -> use a divisor of {local}, '
        f'{local} times a divisor of {devices}, or 0 for the whole batch'
    ]


def _check_groups_of_views(c: ConfigDict, devices: int) -> list[str]:
    """Where both views go through one batch norm, view by view on each device, a group lies within a view there."""
    local, group = c.batch_size // devices, c.bn_group_size
    if METHODS.get(c.method.name) not in (InvaSpread, SimCLR, SimCLRMemory) or group <= 0 or local % group == 0:
        return []
    return [
        f'bn_group_size {group} does not divide the {local} examples of a device, as {c.method.name} needs -> use a '
        f'divisor of {local}, or 0 for one batch norm over both views of the whole batch'
    ]


def _check_training(c: ConfigDict, within: Callable[..., None], rule: Callable[[bool, str], None]) -> None:
    """The values of optimizer and schedule."""
    o, s = c.optimizer, c.schedule
    within('optimizer.learning_rate', 0, open_low=True)
    for field in ('learning_rate_batch', 'weight_decay', 'clip_norm', 'freeze_epochs', 'freeze_steps'):
        within(f'optimizer.{field}', 0)
    within('optimizer.momentum', 0, 1)
    for field in ('b1', 'b2'):
        rule(0 <= o[field] < 1, f'optimizer.{field} {o[field]!r} is out of range -> it must be at least 0 and below 1')
    if o.final_weight_decay != -1:
        within('optimizer.final_weight_decay', 0)
    rule(
        o.mask != 'matrices' or o.name not in ('lars', 'lars_simclr', 'larc'),
        f'optimizer.mask {o.mask!r} is of SGD and Adam, not of {o.name} -> use none',
    )
    for field in ('final', 'warmup_epochs', 'warmup_start'):
        within(f'schedule.{field}', 0)
    within('schedule.factor', 0, 1, open_low=True)
    rule(
        all(math.isfinite(epoch) and epoch > 0 for epoch in s.milestones),
        f'schedule.milestones {s.milestones!r} is out of range -> they are epochs, all above 0',
    )
    rule(
        all(math.isfinite(factor) and factor > 0 for factor in s.factors),
        f'schedule.factors {s.factors!r} is out of range -> they are all above 0',
    )
    rule(
        len(s.factors) in (0, len(s.milestones)),
        f'schedule.factors has {len(s.factors)} values for {len(s.milestones)} milestones -> give as many, or none',
    )
    if 'warmup' in s.name and not c.steps:
        rule(
            s.warmup_epochs <= c.epochs,
            f'schedule.warmup_epochs {s.warmup_epochs:g} is longer than the training of {c.epochs:g} epochs '
            '-> shorten the warm-up',
        )


def _check_chunks(c: ConfigDict, devices: int) -> list[str]:
    """Chunks must divide what a device has, and nothing may be drawn by position."""
    local, chunks = c.batch_size // devices, c.chunks
    if chunks <= 1 or c.batch_size % devices:
        return []
    if drop_path := c.encoder.get('drop_path'):
        return [f'encoder.drop_path {drop_path!r} draws by the position in the batch -> use 0, or chunks 1']
    if local % chunks:
        divisors = [n for n in range(1, local + 1) if local % n == 0]
        near = [max(n for n in divisors if n < chunks), *[n for n in divisors if n > chunks][:1]]
        return [
            f'chunks {chunks} does not divide the {local} examples of a device -> use {" or ".join(map(str, near))}'
        ]
    return []


def _check_network(c: ConfigDict) -> list[str]:
    """Names, fields and sizes of encoder and heads."""
    found = []
    common = {'dtype': c.dtype if c.dtype in DTYPES else DTYPES[0], 'bn_group_size': None}
    heads = ('projector', 'predictor') if c.predictor else ('projector',)
    builders: dict[str, Callable[..., Any]] = {head: partial(network.build_head, head) for head in heads}
    for section, make in {'encoder': network.build_encoder, **builders}.items():
        fields = c[section].to_dict()
        found += [
            f'{section}.{name} {fields[name]!r} is out of range -> it must be at least 1'
            for name in SIZES
            if name in fields and not fields[name] >= 1
        ]
        try:
            make(fields, **common)
        except UserError as error:
            found.append(str(error))
    if c.encoder.name in VITS and (patch := c.encoder.get('patch_size', 16)) >= 1:
        sizes = {'data.image_size': c.data.image_size}
        if c.augment.local_crops:
            sizes['augment.local_size'] = c.augment.local_size
        for field, size in sizes.items():
            near = f'{size // patch * patch} or {-(-size // patch) * patch}' if size >= patch else f'{patch}'
            if size % patch:
                found.append(f'{field} {size} % encoder.patch_size {patch} = {size % patch} -> use {near}')
    return found


def _check_parameters(c: ConfigDict, devices: int) -> list[str]:
    """What only the variables tell, for which shapes are enough: sizes that do not fit, paths that match nothing."""
    fields = c.method.to_dict()
    method = METHODS[fields.pop('name')]

    def init() -> Any:
        images = jnp.zeros((c.batch_size, c.data.image_size, c.data.image_size, 3))
        views = tuple(images for _ in c.augment.blur)
        return method(build_network(c), **fields).init(jax.random.key(0), {'views': views})

    try:
        params, state = jax.eval_shape(init)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        return [f'the network cannot be made: {" ".join(str(error).split())} -> change encoder, projector or predictor']
    found = []
    piece, group = c.batch_size // devices // c.chunks, c.bn_group_size
    if c.chunks > 1 and jax.tree.leaves(state.batch_stats) and (not group or piece % group):
        found.append(
            f'bn_group_size {group} does not fit chunks of {piece} examples: each would have its own BN statistics '
            f'-> use a divisor of {piece}, or an encoder and heads without BN'
        )
    paths = [parameter_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    prefixes = {'/'.join(path.split('/')[: depth + 1]) for path in paths for depth in range(path.count('/') + 1)}
    for field in ('constant', 'freeze', 'freeze_first'):
        for given in c.optimizer[field]:
            near = difflib.get_close_matches(given, sorted(prefixes), n=1)
            if not any(is_below(path, (given,)) for path in paths):
                meant = f'; did you mean {near[0]!r}?' if near else ''
                found.append(
                    f'optimizer.{field} {given!r} matches no parameter{meant} -> give paths such as {paths[0]!r} or '
                    f'{paths[0].rpartition("/")[0]!r}'
                )
    return found


def _check_method(
    c: ConfigDict, within: Callable[..., None], one_of: Callable[..., None], rule: Callable[[bool, str], None]
) -> list[str]:
    name = c.method.name
    if name not in METHODS:
        return [f'method.name {name!r} is unknown -> choose from {", ".join(METHODS)}']
    for field in c.method:
        if field.endswith('temperature'):
            within(f'method.{field}', 0, open_low=True)
        if field.endswith('momentum'):
            within(f'method.{field}', 0, 1)
    if METHODS[name] in (MoCo, SimCLRMemory):
        K, B = c.method.queue_size, c.batch_size
        batches = 2 * B if c.method.get('symmetric', True) else B
        near = sorted({max(K // batches, 1) * batches, max(-(-K // batches), 1) * batches}) if batches > 0 else []
        both = ' (both views of the batch)' if batches > B else ''
        rule(
            batches <= 0 or (K > 0 and K % batches == 0),
            f'method.queue_size {K} is not a positive multiple of the batch size {batches}{both} '
            f'-> use {" or ".join(map(str, near))}',
        )
    if METHODS[name] is DINO:
        within('method.output_dim', 2)
        within('method.teacher_warmup_epochs', 0)
    rule(
        METHODS[name] is DINO or not c.encoder.get('drop_path'),
        f'encoder.drop_path {c.encoder.get("drop_path")!r} is given, but {name} does not use it -> use 0',
    )
    if METHODS[name] in (MemoryBank, InstDis, CMC):
        within('method.num_negatives', 1 if METHODS[name] is MemoryBank else 0)
        within('method.num_examples', 0)
    if METHODS[name] in (InstDis, CMC):
        one_of('method.objective', OBJECTIVES)
        rule(
            c.method.num_negatives != 0 or c.method.objective == 'softmax',
            'method.num_negatives 0 is the softmax over all examples -> set method.objective to softmax, or draw some',
        )
    if METHODS[name] is InstDis:
        within('method.proximal', 0)
    if METHODS[name] is SwAV:
        within('method.num_prototypes', 2)
        within('method.epsilon', 0, open_low=True)
        within('method.iterations', 1)
        within('method.queue_from_epoch', 0)
        K, B = c.method.queue_size, max(c.batch_size, 1)
        near = sorted({0, max(K // B, 1) * B, max(-(-K // B), 1) * B})
        rule(
            K >= 0 and K % B == 0,
            f'method.queue_size {K} is not a multiple of the batch size {B} -> use {" or ".join(map(str, near))}',
        )
    if METHODS[name] is DeepCluster:
        within('method.kmeans_iterations', 1)
        within('method.num_examples', 0)
        heads = c.method.num_prototypes
        rule(
            len(heads) > 0 and all(K >= 2 for K in heads),
            f'method.num_prototypes {heads!r} is out of range -> give the clusters of each head, at least 2',
        )
    is_split = str(c.encoder.name).startswith('split_')
    rule(
        is_split == (METHODS[name] is CMC),
        f'encoder.name {c.encoder.name!r} has {"two halves" if is_split else "no halves"} -> cmc, and no other method, '
        'takes split encoders: split_resnet50, ...',
    )
    if isinstance(blur := c.augment.blur, tuple | list) and blur:
        legal = METHODS[name].global_views
        rule(
            len(blur) in legal,
            f'augment.blur has {len(blur)} views, {name} looks at {" or ".join(map(str, legal))} -> give so many '
            'probabilities',
        )
    rule(
        METHODS[name].multi_crop or not c.augment.local_crops,
        f'augment.local_crops {c.augment.local_crops} are given, but {name} has no use for them -> use 0',
    )
    if METHODS[name] is CPC:
        _check_cpc(c, within, rule)
    else:
        rule(not c.augment.patches, f'augment.patches are given, but {name} looks at whole images -> use None')
    if not METHODS[name].predicts:
        return [f'predictor is given, but {name} has none -> leave that section empty'] if c.predictor else []
    if not c.predictor:
        return [f'predictor is empty -> {name} needs one: num_layers, hidden_dim, output_dim']
    z, p = (head.get('output_dim') for head in (c.projector, c.predictor))
    rule(
        z == p or None in (z, p),
        f'predictor.output_dim {p} differs from projector.output_dim {z} -> they are compared: give one value',
    )
    return []


def _check_cpc(c: ConfigDict, within: Callable[..., None], rule: Callable[[bool, str], None]) -> None:
    """The values of CPC: its encoder cuts images into a grid, and predictions must stay within."""
    m, e = c.method, c.encoder
    within('method.scale', 0, open_low=True)
    within('method.context_blocks', 1)
    within('method.context_dim', 1)
    rule(
        m.candidates in CANDIDATES,
        f'method.candidates {m.candidates!r} is unknown -> choose from {", ".join(CANDIDATES)}',
    )
    rule(
        len(m.directions) > 0 and len(set(m.directions)) == len(m.directions) and set(m.directions) <= set(DIRECTIONS),
        f'method.directions {m.directions!r} -> give some of {", ".join(DIRECTIONS)}, each once',
    )
    if not e.name.startswith('cpc'):
        rule(False, f'encoder.name {e.name!r} sees whole images -> CPC needs one of {", ".join(CPC_ENCODERS)}')
        return
    hidden_norm = c.projector.get('num_layers', 1) > 1 and c.projector.get('batch_norm', True)
    rule(
        not hidden_norm and not c.projector.get('last_batch_norm'),
        'projector.batch_norm would tell each patch about the others -> CPC has none: use False',
    )
    size, stride = e.patch_size, e.patch_stride
    if min(size, stride, c.data.image_size) < 1:
        return  # said elsewhere
    try:
        check_patches((c.data.image_size,), size, stride)
    except ValueError as error:
        rule(False, f'data.image_size, encoder.patch_size and encoder.patch_stride: {error}')
        return
    rows = (c.data.image_size - size) // stride + 1
    rule(
        len(m.offsets) > 0 and all(1 <= k < rows for k in m.offsets),
        f'method.offsets {m.offsets!r} do not fit a grid of {rows} rows -> use numbers from 1 to {rows - 1}',
    )
    if p := c.augment.patches:
        rule(
            (p.size, p.stride) == (size, stride),
            f'augment.patches has size {p.size}, stride {p.stride} -> give those of the encoder, {size} and {stride}',
        )


def _get(config: ConfigDict, field: str) -> Any:
    for part in field.split('.'):
        config = config[part]
    return config
