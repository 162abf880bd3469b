"""All configuration errors at once, one readable line each, before compilation."""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from contrastive_jax.augment.policy import Policy
from contrastive_jax.config.base import base_config
from contrastive_jax.config.batch import check_chunks, check_groups, check_groups_in_chunks, with_divisible_batch
from contrastive_jax.config.best import check_best
from contrastive_jax.config.build import build_network
from contrastive_jax.config.fields import DTYPES, MAX_BATCH, Optimizer, Schedule, sections_of
from contrastive_jax.config.group import check_group
from contrastive_jax.config.plan import is_estimated
from contrastive_jax.config.sizes import check_sizes
from contrastive_jax.config.trackers import check_trackers
from contrastive_jax.errors import Problem, UserError
from contrastive_jax.methods import Method, find_method, method_or_none
from contrastive_jax.models import network
from contrastive_jax.models.vit import VITS
from contrastive_jax.optim.optimizers import is_below, parameter_path
from contrastive_jax.rules import Rules, declared_fields, did_you_mean, is_of, wrong_kind


def check(config: ConfigDict, devices: int, processes: int = 1, num_examples: int | None = None) -> list[str]:
    """Finds everything that is wrong with a config, without compiling anything.

    Args:
      config: a config with the fields of `base.base_config`.
      devices: the number of devices that the run uses.
      processes: the number of hosts.
      num_examples: the number of training images; None: not known yet, `check_examples` is for later.

    Returns:
      One `errors.Problem` for each problem: what was given, the rule, and the remedy. Empty if nothing is wrong.
    """
    rules = Rules(config)
    if lacking := _lacking(config):
        remedy = 'start from config.base.base_config(...) as configs/ does'
        return [Problem(f'the config lacks {", ".join(lacking)}', field=lacking[0], remedy=remedy)]
    unusable = [
        path
        for section, declared in sections_of(config).items()
        if section not in ('optimizer', 'schedule')
        for path in rules.declared(section, declared)
    ]
    for path, example in (
        ('encoder.name', 'resnet50'),
        ('method.name', 'moco'),
    ):  # they choose the class of the section
        if problem := wrong_kind(path, rules.value(path), str, example):
            rules.found.append(problem)
            unusable.append(path)
    paths_are_usable = not rules.declared('optimizer', Optimizer) + rules.declared('schedule', Schedule)
    if paths_are_usable and is_of(config.epochs, float):
        check_optimizer(config, rules)
    _policy(config, unusable, rules)
    network_is_right = _network(config, unusable, rules)
    if any(path not in _OF_POLICY_ALONE for path in unusable):
        return rules.found  # the rules of several fields need values of the right type

    c = with_divisible_batch(config, devices, rules)
    rules.rule(
        c.steps > 0 or c.epochs > 0 or not math.isfinite(c.epochs),  # these have a line of their own
        f'epochs {c.epochs!r} is out of range',
        field='epochs',
        remedy='it must be above 0',
    )
    check_best(c, rules)
    check_trackers(c, rules)
    check_group(c, rules)
    if (b := c.eval.batch_size) % processes:
        near = -(-b // processes) * processes
        rules.add(
            f'eval.batch_size {b} is not divisible by {processes} hosts',
            field='eval.batch_size',
            remedy=f'use {near}',
            value=near,
        )
    if 2 <= c.batch_size <= MAX_BATCH:
        check_groups(c, devices, rules)
        check_chunks(c, devices, rules)
    try:
        method = find_method(c.method.name)
    except UserError as error:
        rules.found += error.problems
        return rules.found
    _method(c, method, rules)
    predictor_is_right = _predictor(c, method, rules)
    if num_examples is not None and not rules.found:
        rules.found += check_examples(c, num_examples, devices)
    if network_is_right and predictor_is_right and paths_are_usable and not unusable:
        _variables(c, devices, rules)
    return rules.found


def check_fields(config: ConfigDict) -> list[str]:
    """Finds what is wrong with each field by itself; the rules of several fields are for `check`.

    Args:
      config: the config, as `check` takes it; some of its fields may still be chosen by the data.
    """
    rules, sections = Rules(config), sections_of(config)
    if _lacking(config) or not {'encoder', 'method'} <= sections.keys():  # names that do not exist
        return check(config, devices=1)
    for section, declared in sections.items():
        rules.declared(section, declared)
    return rules.found


def check_init(config: ConfigDict) -> list[str]:
    """Finds that a recipe for given weights gets none. `check` does not: a recipe is right before a command names them.

    Args:
      config: the config, as `check` takes it.
    """
    if config.get('init') or not config.get('auto', {}).get('continues'):
        return []
    return [
        Problem(
            "init is '', and the variant continue starts from weights that exist",
            field='init',
            remedy='give --config.init=PATH: the workdir of a run, a file of weights, or a published checkpoint',
        )
    ]


# Fields that no rule outside of `Policy` uses.
_OF_POLICY_ALONE = frozenset(
    f'augment.{name}'
    for name in declared_fields(Policy)
    if name not in ('blur', 'local_crops', 'local_size', 'patches', 'color_space')
)


def check_optimizer(c: ConfigDict, rules: Rules) -> None:
    """Adds to `rules` what is wrong with several fields of `optimizer` and `schedule` together.

    Args:
      c: a config whose fields have the right type.
      rules: the rules of the config.
    """
    o, s = c.optimizer, c.schedule
    rules.rule(
        o.mask != 'matrices' or o.name not in ('lars', 'lars_simclr', 'larc'),
        f'optimizer.mask {o.mask!r} is of SGD and Adam, not of {o.name}',
        field='optimizer.mask',
        remedy='use none',
        value='none',
    )
    rules.rule(
        len(s.factors) in (0, len(s.milestones)),
        f'schedule.factors has {len(s.factors)} values for {len(s.milestones)} milestones',
        field='schedule.factors',
        remedy='give as many, or none',
    )
    if 'warmup' in s.name and not c.get('steps'):
        rules.rule(
            not s.warmup_epochs > c.epochs,
            f'schedule.warmup_epochs {s.warmup_epochs:g} is longer than the training of {c.epochs:g} epochs',
            field='schedule.warmup_epochs',
            remedy='shorten the warm-up',
            value=0.0,
        )


def check_examples(c: ConfigDict, num_examples: int, devices: int = 1) -> list[str]:
    """Finds what is wrong with a config for data of this size, if the config itself is right.

    Args:
      c: a config without other problems.
      num_examples: the number of training images.
      devices: the number of devices that the run uses.

    Returns:
      As `check`.
    """
    rules, B = Rules(c), c.batch_size
    if num_examples < B:
        most = max(num_examples // devices, 1) * devices
        return [
            Problem(
                f'{num_examples} images are fewer than batch_size {B}',
                field='batch_size',
                remedy='use more images' + f', or a batch_size of at most {num_examples}' * (num_examples >= 2),
                value=most if 2 <= most <= num_examples else None,
            )
        ]
    per_epoch, s, m = num_examples // B, c.schedule, c.method
    warmup = round(s.warmup_epochs * per_epoch)
    rules.rule(
        'warmup' not in s.name or not 0 < c.steps < warmup,
        f'schedule.warmup_epochs {s.warmup_epochs:g} are {warmup} steps, longer than the training of {c.steps}',
        field='schedule.warmup_epochs',
        remedy='shorten the warm-up',
        value=0.0,
    )
    rules.rule(
        c.steps > 0 or c.epochs * per_epoch <= MAX_BATCH,
        f'epochs {c.epochs:g} of {per_epoch} steps are more than {MAX_BATCH} steps',
        field='epochs',
        remedy='use fewer',
        value=float(MAX_BATCH // per_epoch),
    )
    rules.rule(
        not 0 < m.get('num_examples', 0) < num_examples,
        f'method.num_examples {m.get("num_examples")} is less than the {num_examples} images of the data',
        field='method.num_examples',
        remedy='use 0, for as many as there are',
        value=0,
    )
    method = method_or_none(m.name)
    if method is not None and method.initializes_memory and 'num_prototypes' in m:
        heads = m.num_prototypes if isinstance(m.num_prototypes, tuple | list) else (m.num_prototypes,)
        most, fitting = max(heads, default=0), tuple(min(K, per_epoch * B) for K in heads)
        rules.rule(
            most <= per_epoch * B,
            f'method.num_prototypes {most} is more than the {per_epoch * B} images of an epoch, which cannot have so '
            'many clusters',
            field='method.num_prototypes',
            remedy='use fewer',
            value=fitting if isinstance(m.num_prototypes, tuple | list) else fitting[0],
        )
    return rules.found


def _lacking(config: ConfigDict) -> list[str]:
    """The fields that a base config has and this config lacks: sections, and fields such as 'encoder.name'."""
    method = str(config.method.get('name')) if isinstance(config.get('method'), ConfigDict) else None
    known = method_or_none(method)
    model = base_config(str(method) if known else 'moco')
    if not known:
        model.method = ConfigDict({'name': ''})
    model.encoder = ConfigDict({'name': ''})  # its other fields have defaults
    lacking = []
    del model['auto']  # a config may do without choices
    for name, value in model.items():
        given = config.get(name)
        if not isinstance(value, ConfigDict):
            lacking += [name] if name not in config else []
        elif not isinstance(given, ConfigDict):
            lacking.append(name)
        else:
            lacking += [f'{name}.{field}' for field in value if field not in given]
    return lacking


def _method(c: ConfigDict, method: type[Method], rules: Rules) -> None:
    """Rules of the method, and whether it can use the views, the encoder and the heads."""
    name = c.method.name
    method.check(c, rules)
    _views(c, method, rules)
    rules.rule(
        method.supports_drop_path or not c.encoder.get('drop_path'),
        f'encoder.drop_path {c.encoder.get("drop_path")!r} is given, but {name} does not use it',
        field='encoder.drop_path',
        remedy='use 0',
        value=0.0,
    )
    if str(c.encoder.name).startswith('split_') != method.split_encoder:
        if method.split_encoder:
            message, remedy = 'is not a split encoder', f'{name} needs one, e.g. split_resnet50'
        else:
            message, remedy = f'is a split encoder, which {name} does not use', 'choose one without split_'
        rules.add(f'encoder.name {c.encoder.name!r} {message}', field='encoder.name', remedy=remedy)


def _predictor(c: ConfigDict, method: type[Method], rules: Rules) -> bool:
    """Whether there is a predictor if the method has one, with outputs as wide as those of the projector."""
    name, before = c.method.name, len(rules.found)
    if not method.has_predictor:
        given = f'predictor is given, but {name} has none'
        rules.rule(not c.predictor, given, field='predictor', remedy='leave that section empty')
    elif not c.predictor:
        remedy = f'{name} needs one: num_layers, hidden_dim, output_dim'
        rules.add('predictor is empty', field='predictor', remedy=remedy)
    else:
        z, p = (head.get('output_dim') for head in (c.projector, c.predictor))
        rules.rule(
            z == p or None in (z, p),
            f'predictor.output_dim {p} differs from projector.output_dim {z}, and the loss compares the two outputs',
            field='predictor.output_dim',
            remedy='give both the same value',
            value=z,
        )
    return len(rules.found) == before


def _views(c: ConfigDict, method: type[Method], rules: Rules) -> None:
    """The number and the kind of the views must be those that the method uses."""
    name, blur, legal = c.method.name, c.augment.blur, method.global_views
    rules.rule(
        not blur or len(blur) in legal,
        f'augment.blur has {len(blur)} views, {name} uses {" or ".join(map(str, legal))}',
        field='augment.blur',
        remedy='give one probability for each view',
        value=(0.0,) * legal[-1],
    )
    rules.rule(
        method.multi_crop or not c.augment.local_crops,
        f'augment.local_crops {c.augment.local_crops} are given, but {name} does not use local views',
        field='augment.local_crops',
        remedy='use 0',
        value=0,
    )
    rules.rule(
        method.patches or not c.augment.patches,
        f'augment.patches are given, but {name} uses whole images',
        field='augment.patches',
        remedy='use None',
    )


def _policy(c: ConfigDict, unusable: list[str], rules: Rules) -> None:
    """What the augmentation itself finds wrong, as far as its fields have the right type."""
    wrong = {path.split('.')[1] for path in unusable if path.startswith('augment.')}
    if 'blur' in wrong:
        wrong.add('solarize')  # is compared with it
    wrong |= {name for name in ('mean', 'std') if is_estimated(c, f'augment.{name}')}
    policy = Policy(**{name: value for name, value in c.augment.to_dict().items() if name not in wrong})
    reported = {line.field for line in rules.found if isinstance(line, Problem)}
    rules.found += [problem for problem in policy.problems() if problem.field not in reported]


def _network(c: ConfigDict, unusable: list[str], rules: Rules) -> bool:
    """The names, required fields and image sizes of encoder and heads. Returns whether nothing is wrong with them."""
    common = {'dtype': c.dtype if c.dtype in DTYPES else DTYPES[0], 'bn_group_size': None}
    heads = ('projector', 'predictor') if c.predictor else ('projector',)
    builders: dict[str, Callable[..., Any]] = {head: partial(network.build_head, head) for head in heads}
    found = Rules(c)
    for section, build in {'encoder': network.build_encoder, **builders}.items():
        if any(path.startswith(f'{section}.') for path in unusable):
            continue
        try:
            build(c[section].to_dict(), **common)
        except UserError as error:
            found.add(str(error), field=section)
    sizes = {'data.image_size': c.data.image_size}
    if c.augment.local_crops:
        sizes['augment.local_size'] = c.augment.local_size
    patch = c.encoder.get('patch_size', 16)
    if 'encoder.name' not in unusable and c.encoder.name in VITS and is_of(patch, int) and patch >= 1:
        for field, size in sizes.items():
            if is_of(size, int) and size % patch:
                near = sorted({max(size // patch, 1) * patch, -(-size // patch) * patch})
                found.add(
                    f'{field} {size} % encoder.patch_size {patch} = {size % patch}',
                    field=field,
                    remedy=f'use {" or ".join(map(str, near))}',
                    value=near[-1],
                )
    found.found += check_sizes(c)
    rules.found += found.found
    return not found.found


def _variables(c: ConfigDict, devices: int, rules: Rules) -> None:
    """What only the shapes of the variables show: sizes that do not fit, paths without a parameter."""
    fields = c.method.to_dict()
    method = find_method(fields.pop('name'))
    wrong = bool(rules.found)
    try:
        built = method(build_network(c), **fields)
        shape = (c.batch_size, c.data.image_size, c.data.image_size, c.data.get('channels', 3))
        params, state = _shapes(_Exactly(built), shape, len(c.augment.blur))
    except Exception as error:  # modules check their own fields, and a user's module may raise anything
        if not wrong:  # otherwise what is wrong elsewhere may be the reason
            reason = ' '.join(str(error).split())
            if not isinstance(error, ValueError | UserError):
                reason = f'{type(error).__name__}: {reason}'
            remedy = 'change encoder, projector or predictor'
            rules.add(f'the network cannot be built: {reason}', field='encoder', remedy=remedy)
        return
    if not wrong and jax.tree.leaves(state.batch_stats):
        check_groups_in_chunks(c, devices, rules)
    check_paths(params, c, rules)


class _Exactly:
    """A key of a cache for a method: 1, 1.0 and True are equal, and not the same value of a field."""

    def __init__(self, method: Method):
        self.method, self._text = method, repr(method)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Exactly) and self._text == other._text and self.method == other.method


@lru_cache(maxsize=16)  # a command checks its config several times, and a network takes seconds to trace
def _shapes(key: _Exactly, shape: tuple[int, ...], views: int) -> Any:
    """The shapes of parameters and state of a method for views of a shape [B, H, W, C]."""
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda *x: key.method.init(jax.random.key(0), {'views': x}), *(images,) * views)


def check_paths(params: Any, c: ConfigDict, rules: Rules) -> None:
    """Adds to `rules` the paths in the section `optimizer` that are not those of a parameter.

    Args:
      params: the trained parameters, or their shapes.
      c: a config with the section `optimizer`.
      rules: the rules of the config.
    """
    names = [parameter_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    prefixes = {'/'.join(path.split('/')[: depth + 1]) for path in names for depth in range(path.count('/') + 1)}
    by_path = {field: c.optimizer[field] for field in ('constant', 'freeze', 'freeze_first')}
    by_path['rate_factors'] = tuple(path for path, _ in c.optimizer.rate_factors)
    for field, given_paths in by_path.items():
        for given in given_paths:
            rules.rule(
                any(is_below(path, (given,)) for path in names),
                f'optimizer.{field} {given!r} matches no parameter{did_you_mean(given, sorted(prefixes))}',
                field=f'optimizer.{field}',
                remedy=f'give paths such as {names[0]!r} or {names[0].rpartition("/")[0]!r}',
            )
