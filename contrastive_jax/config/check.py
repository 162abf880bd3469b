"""What is wrong with a config: everything at once, a readable line each, found without compiling anything."""

import contextlib
import difflib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from contrastive_jax.config.base import DTYPES, OPTIMIZERS, SCHEDULES, base_config
from contrastive_jax.config.build import build_network, build_policy
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.knn import MIN_TEMPERATURE
from contrastive_jax.methods import METHODS, Method
from contrastive_jax.models import network
from contrastive_jax.models.vit import VITS
from contrastive_jax.optim.optimizers import is_below, parameter_path
from contrastive_jax.rules import Rules

# Fields of encoder and heads that count something.
SIZES = (
    'patch_size', 'patch_stride', 'width', 'width_multiplier', 'depth', 'num_heads', 'num_layers', 'hidden_dim',
    'output_dim',
)  # fmt: skip


def check(config: ConfigDict, devices: int, processes: int = 1) -> list[str]:
    """Everything that is wrong with a config, one readable line each, found without compiling anything.

    Args:
      config: any config of the form that `base` makes.
      devices: number of devices of the run.
      processes: number of hosts.

    Returns:
      Lines that say what was given, the rule, and the remedy; empty if all is well.
    """
    c, rules = config, Rules(config)
    if lacking := _lacking(c):
        return [f'the config lacks {", ".join(lacking)} -> start from config.base.base_config(...) as configs/ does']

    rules.one_of('parallel', ('jit', 'pmap'))
    rules.one_of('dtype', DTYPES)
    rules.one_of('data.source', ('digits', 'npz', 'folder', 'tfds'))
    for field in ('batch_size', 'chunks', 'log_every_steps', 'data.image_size', 'eval.knn_k', 'eval.batch_size'):
        rules.within(field, 1)
    for field in ('eval.max_train', 'eval.max_test', 'checkpoint_every_steps'):
        rules.within(field, 1)
    for field in ('steps', 'bn_group_size', 'eval_every_steps', 'profile_steps', 'data.workers'):
        rules.within(field, 0)
    rules.within('seed', 0, 2**31 - 1)
    if c.steps <= 0:
        rules.within('epochs', 0, open_low=True)
    rules.within('eval.knn_temperature', MIN_TEMPERATURE)
    check_optimizer(c, rules)
    if c.batch_size >= 1:
        _batch(c, devices, processes, rules)
    _method(c, rules)
    rules.found += build_policy(c).problems()
    _network(c, rules)
    if told := list(rules.found):
        # Paths are looked at all the same, where the network is right and the rest lets its variables be made.
        if not any(line.startswith(('encoder', 'projector', 'predictor')) for line in told):
            with contextlib.suppress(Exception):
                _variables(c, devices, rules)
        return [line for line in rules.found if line in told or line.startswith('optimizer.')]
    _variables(c, devices, rules)
    return rules.found


def _lacking(config: ConfigDict) -> list[str]:
    """Fields that `base` has and this config has not: one of `encoder.name` as much as the whole section."""
    method = config.method.get('name') if isinstance(config.get('method'), ConfigDict) else None
    model = base_config(method if method in METHODS else 'moco')
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


def check_optimizer(c: ConfigDict, rules: Rules) -> None:
    """Adds to `rules` what is wrong with the values of the sections `optimizer` and `schedule`."""
    o, s = c.optimizer, c.schedule
    rules.one_of('optimizer.name', OPTIMIZERS)
    rules.one_of('optimizer.learning_rate_scaling', ('linear', 'sqrt'))
    rules.one_of('optimizer.mask', ('none', 'matrices'))
    rules.one_of('schedule.name', SCHEDULES)
    rules.within('optimizer.learning_rate', 0, open_low=True)
    for field in ('learning_rate_batch', 'weight_decay', 'clip_norm', 'freeze_epochs', 'freeze_steps'):
        rules.within(f'optimizer.{field}', 0)
    rules.within('optimizer.momentum', 0, 1)
    for field in ('b1', 'b2'):
        rules.rule(
            0 <= o[field] < 1, f'optimizer.{field} {o[field]!r} is out of range -> it must be at least 0 and below 1'
        )
    if o.final_weight_decay != -1:
        rules.within('optimizer.final_weight_decay', 0)
    rules.rule(
        o.mask != 'matrices' or o.name not in ('lars', 'lars_simclr', 'larc'),
        f'optimizer.mask {o.mask!r} is of SGD and Adam, not of {o.name} -> use none',
    )
    rules.rule(
        all(_is_rate_factor(pair) for pair in o.rate_factors),
        f'optimizer.rate_factors {o.rate_factors!r} is out of range -> give pairs of a path and a factor above 0: '
        "(('projector', 10.0),)",
    )
    for field in ('final', 'warmup_epochs', 'warmup_start'):
        rules.within(f'schedule.{field}', 0)
    rules.within('schedule.factor', 0, 1, open_low=True)
    rules.rule(
        all(math.isfinite(epoch) and epoch > 0 for epoch in s.milestones),
        f'schedule.milestones {s.milestones!r} is out of range -> they are epochs, all above 0',
    )
    rules.rule(
        all(math.isfinite(factor) and factor > 0 for factor in s.factors),
        f'schedule.factors {s.factors!r} is out of range -> they are all above 0',
    )
    rules.rule(
        len(s.factors) in (0, len(s.milestones)),
        f'schedule.factors has {len(s.factors)} values for {len(s.milestones)} milestones -> give as many, or none',
    )
    if 'warmup' in s.name and not c.get('steps'):
        rules.rule(
            s.warmup_epochs <= c.epochs,
            f'schedule.warmup_epochs {s.warmup_epochs:g} is longer than the training of {c.epochs:g} epochs '
            '-> shorten the warm-up',
        )


def _is_rate_factor(pair: Any) -> bool:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        return False
    path, factor = pair
    return isinstance(path, str) and isinstance(factor, int | float) and math.isfinite(factor) and factor > 0


def _batch(c: ConfigDict, devices: int, processes: int, rules: Rules) -> None:
    """How the batch, BN groups and chunks lie on the devices."""
    B = c.batch_size
    lower, upper = B // devices * devices, -(-B // devices) * devices
    nearest = f'{lower} or {upper}' if lower else f'{upper}'
    rules.rule(B % devices == 0, f'batch_size {B} is not divisible by {devices} devices -> use {nearest}')
    rules.rule(
        c.eval.batch_size % processes == 0,
        f'eval.batch_size {c.eval.batch_size} is not divisible by {processes} hosts -> use a multiple',
    )
    rules.found += _groups(B, c.bn_group_size, devices) or _groups_of_views(c, devices)
    rules.found += _chunks(c, devices)


def _groups(batch: int, group: int, devices: int) -> list[str]:
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


def _groups_of_views(c: ConfigDict, devices: int) -> list[str]:
    """Where both views go through one batch norm, view by view on each device, a group lies within a view there."""
    local, group = c.batch_size // devices, c.bn_group_size
    concat_views = c.method.name in METHODS and METHODS[c.method.name].concat_views
    if not concat_views or group <= 0 or local % group == 0:
        return []
    return [
        f'bn_group_size {group} does not divide the {local} examples of a device, as {c.method.name} needs -> use a '
        f'divisor of {local}, or 0 for one batch norm over both views of the whole batch'
    ]


def _chunks(c: ConfigDict, devices: int) -> list[str]:
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


def _method(c: ConfigDict, rules: Rules) -> None:
    """The method's own values, and whether views, encoder and heads are what it needs."""
    name = c.method.name
    if name not in METHODS:
        rules.found.append(f'method.name {name!r} is unknown -> choose from {", ".join(METHODS)}')
        return
    method = METHODS[name]
    for field in c.method:
        if field.endswith('temperature'):
            rules.within(f'method.{field}', 0, open_low=True)
        if field.endswith('momentum'):
            rules.within(f'method.{field}', 0, 1)
    if 'num_examples' in c.method:
        rules.within('method.num_examples', 0)
    method.check(c, rules)
    _views(c, method, rules)
    rules.rule(
        method.supports_drop_path or not c.encoder.get('drop_path'),
        f'encoder.drop_path {c.encoder.get("drop_path")!r} is given, but {name} does not use it -> use 0',
    )
    is_split = str(c.encoder.name).startswith('split_')
    rules.rule(
        is_split == method.split_encoder,
        f'encoder.name {c.encoder.name!r} has {"two halves" if is_split else "no halves"} -> cmc, and no other method, '
        'takes split encoders: split_resnet50, ...',
    )
    if not method.has_predictor:
        rules.rule(not c.predictor, f'predictor is given, but {name} has none -> leave that section empty')
    elif not c.predictor:
        rules.found.append(f'predictor is empty -> {name} needs one: num_layers, hidden_dim, output_dim')
    else:
        z, p = (head.get('output_dim') for head in (c.projector, c.predictor))
        rules.rule(
            z == p or None in (z, p),
            f'predictor.output_dim {p} differs from projector.output_dim {z} -> they are compared: give one value',
        )


def _views(c: ConfigDict, method: type[Method], rules: Rules) -> None:
    """As many views, and of the kind, that the method looks at."""
    name = c.method.name
    if isinstance(blur := c.augment.blur, tuple | list) and blur:
        legal = method.global_views
        rules.rule(
            len(blur) in legal,
            f'augment.blur has {len(blur)} views, {name} looks at {" or ".join(map(str, legal))} -> give so many '
            'probabilities',
        )
    rules.rule(
        method.multi_crop or not c.augment.local_crops,
        f'augment.local_crops {c.augment.local_crops} are given, but {name} has no use for them -> use 0',
    )
    rules.rule(
        method.patches or not c.augment.patches,
        f'augment.patches are given, but {name} looks at whole images -> use None',
    )


def _network(c: ConfigDict, rules: Rules) -> None:
    """Names, fields and sizes of encoder and heads."""
    common = {'dtype': c.dtype if c.dtype in DTYPES else DTYPES[0], 'bn_group_size': None}
    heads = ('projector', 'predictor') if c.predictor else ('projector',)
    builders: dict[str, Callable[..., Any]] = {head: partial(network.build_head, head) for head in heads}
    for section, make in {'encoder': network.build_encoder, **builders}.items():
        fields = c[section].to_dict()
        for name in SIZES:
            rules.rule(
                name not in fields or fields[name] >= 1,
                f'{section}.{name} {fields.get(name)!r} is out of range -> it must be at least 1',
            )
        try:
            make(fields, **common)
        except UserError as error:
            rules.found.append(str(error))
    if c.encoder.name in VITS and (patch := c.encoder.get('patch_size', 16)) >= 1:
        sizes = {'data.image_size': c.data.image_size}
        if c.augment.local_crops:
            sizes['augment.local_size'] = c.augment.local_size
        for field, size in sizes.items():
            near = f'{size // patch * patch} or {-(-size // patch) * patch}' if size >= patch else f'{patch}'
            line = f'{field} {size} % encoder.patch_size {patch} = {size % patch} -> use {near}'
            rules.rule(size % patch == 0, line)


def _variables(c: ConfigDict, devices: int, rules: Rules) -> None:
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
        reason = ' '.join(str(error).split())
        rules.found.append(f'the network cannot be made: {reason} -> change encoder, projector or predictor')
        return
    piece, group = c.batch_size // devices // c.chunks, c.bn_group_size
    if c.chunks > 1 and jax.tree.leaves(state.batch_stats) and (not group or piece % group):
        rules.found.append(
            f'bn_group_size {group} does not fit chunks of {piece} examples: each would have its own BN statistics '
            f'-> use a divisor of {piece}, or an encoder and heads without BN'
        )
    check_paths(params, c, rules)


def check_paths(params: Any, c: ConfigDict, rules: Rules) -> None:
    """Adds to `rules` which paths in the section `optimizer` are not those of a parameter.

    Args:
      params: arrays, or their shapes.
      c: the config.
      rules: of the config.
    """
    names = [parameter_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    prefixes = {'/'.join(path.split('/')[: depth + 1]) for path in names for depth in range(path.count('/') + 1)}
    by_path = {field: c.optimizer[field] for field in ('constant', 'freeze', 'freeze_first')}
    by_path['rate_factors'] = tuple(pair[0] for pair in c.optimizer.rate_factors if _is_rate_factor(pair))
    for field, given_paths in by_path.items():
        for given in given_paths:
            near = difflib.get_close_matches(given, sorted(prefixes), n=1)
            if not any(is_below(path, (given,)) for path in names):
                meant = f'; did you mean {near[0]!r}?' if near else ''
                rules.found.append(
                    f'optimizer.{field} {given!r} matches no parameter{meant} -> give paths such as {names[0]!r} or '
                    f'{names[0].rpartition("/")[0]!r}'
                )
