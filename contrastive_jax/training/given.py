"""Training that starts from given weights, `config.init`: a run, a file of ours, or a published checkpoint.

The encoder takes the weights, with its BN statistics, in the trained network and in its moving average; the projector
takes those of a run whose projector has the same shapes. Predictor, memory, optimizer and schedule are new.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED, Devices
from contrastive_jax.errors import UserError
from contrastive_jax.models.heads import MLP
from contrastive_jax.training.run import Run, TrainState
from contrastive_jax.training.step import init_state

if TYPE_CHECKING:
    from contrastive_jax.pretrained.encoder import Encoder

Load = Callable[..., 'Encoder']  # contrastive_jax.load_encoder
Say = Callable[[str], None]

# Fields of an encoder that do not change its features: how it is initialized, trained and computed.
OF_TRAINING = ('dtype', 'remat', 'zero_init_residual', 'bn_group_size', 'bn_views', 'bn_momentum', 'bn_unbiased',
               'drop_path', 'kernel_init', 'parent', 'name')  # fmt: skip
SHOWN = 5  # differences in a message


def read_weights(path: str, run: Run, load: Load, repeat_channels: bool = False) -> 'Encoder':
    """Loads the weights that a run starts from, for the run's image size.

    Args:
      path: `config.init`.
      run: what is constant in the run.
      load: `contrastive_jax.load_encoder`.
      repeat_channels: whether the first convolution of weights for RGB is repeated for the run's channels.

    Raises:
      UserError: the path cannot be read, or holds another encoder than the run's.
    """
    encoder = load(path)
    if isinstance(encoder.projector, MLP) and isinstance(run.method.network.projector, MLP):
        encoder = load(path, None, encoder.projector.num_layers)
    if repeat_channels and encoder.channels != run.policy.channels:
        encoder = dataclasses.replace(encoder.with_channels(run.policy.channels), policy=run.policy)
    encoder = encoder.at_size(run.image_size)
    if fields := _fields_that_differ(encoder.module, run.method.network.encoder):
        name, theirs, ours = fields[0]
        field = f'encoder.{name}'
        raise UserError(
            f'init {path} has another encoder: '
            + ', '.join(f'{name} {theirs!r} instead of {ours!r}' for name, theirs, ours in fields[:SHOWN]),
            field=field,
            remedy=f'set {field} to {theirs!r}, or give weights of an encoder like that of the config',
        )
    shapes = jax.eval_shape(partial(init_state, run))
    wanted = {'params': shapes.params['encoder'], 'stats': shapes.method.batch_stats['online'].get('encoder', {})}
    if differ := _differences({'params': encoder.params, 'stats': encoder.stats}, wanted):
        theirs, ours = encoder.channels, run.policy.channels
        remedy = f'change the section encoder to {encoder.architecture}, or give other weights'
        if theirs != ours:
            remedy = (
                f'they take {theirs} channels, the run has {ours}: set init_channels to repeat, or give other weights'
            )
        rest = f', and {len(differ) - SHOWN} more' if len(differ) > SHOWN else ''
        raise UserError(
            f'init {path} does not fit the encoder of the config: {", ".join(differ[:SHOWN])}{rest}',
            field='init',
            remedy=remedy,
        )
    heads = {'params': encoder.projector_params, 'stats': encoder.projector_stats}
    ours = {
        'params': shapes.params.get('projector', {}),
        'stats': shapes.method.batch_stats['online'].get('projector', {}),
    }
    if encoder.projector_params and _differences(heads, ours):
        encoder = dataclasses.replace(encoder, projector_layers=0, projector_params={}, projector_stats={})
    return encoder


def describe(encoder: 'Encoder', run: Run) -> list[str]:
    """What a run takes from given weights, and what is new, for the user."""
    shapes = jax.eval_shape(partial(init_state, run))
    taken = ['encoder', *(['its BN statistics'] if encoder.stats else [])]
    taken += ['projector'] if encoder.projector_params else []
    networks = 'the trained network and its moving average' if 'encoder' in shapes.method.target else 'the network'
    new = [name for name in shapes.params if name != 'encoder' and not (name == 'projector' and 'projector' in taken)]
    new += ['memory'] if shapes.method.memory else []
    lines = [
        f'starts from {encoder.source}: {", ".join(taken)} ({encoder.num_parameters:,} parameters of the encoder), in '
        f'{networks}; new: {", ".join([*new, "optimizer", "schedule"])}'
    ]
    theirs, ours = encoder.policy, run.policy
    if (theirs.mean, theirs.std, theirs.color_space) != (tuple(ours.mean), tuple(ours.std), ours.color_space):
        lines.append(
            f'warning: the weights expect {theirs.color_space} minus mean {theirs.mean}, divided by std {theirs.std}, '
            f'and the run has {ours.color_space}, {tuple(ours.mean)}, {tuple(ours.std)} '
            '-> set augment.mean and augment.std'
        )
    return lines


def start(state: TrainState, step: int, *, weights: Callable[[], 'Encoder'], devices: Devices) -> TrainState:
    """Puts the weights into the state at step 0; a restored state stays as it is, and they are not read."""
    if step > 0:
        return state
    encoder = weights()
    params: dict[str, PyTree] = {'encoder': encoder.params}
    stats: dict[str, PyTree] = {'encoder': encoder.stats}
    if encoder.projector_params:
        params['projector'], stats['projector'] = encoder.projector_params, encoder.projector_stats
    stats = {name: tree for name, tree in stats.items() if tree}
    # Placed once for each network: a train step gives the buffers of its state to the next state, so none is shared.
    online, online_stats = devices.place((params, stats), REPLICATED)
    target, target_stats = devices.place((params, stats), REPLICATED)
    method = state.method
    batch_stats = dict(method.batch_stats)
    for network, given in (('online', online_stats), ('target', target_stats)):
        if network in batch_stats:
            batch_stats[network] = _put(batch_stats[network], given)
    method = method.replace(target=_put(method.target, target), batch_stats=batch_stats)
    return dataclasses.replace(state, params=_put(state.params, online), method=method)


def _put(tree: Any, given: dict[str, PyTree]) -> Any:
    """The tree with the parts that it has and that are given."""
    return {**tree, **{name: part for name, part in given.items() if name in tree}}


def _fields_that_differ(theirs: nn.Module, ours: nn.Module) -> list[tuple[str, Any, Any]]:
    """(name, value in the weights, value in the config) of fields that change the features."""
    if type(theirs) is not type(ours):
        return [('name', type(theirs).__name__, type(ours).__name__)]
    names = [field.name for field in dataclasses.fields(ours) if field.name not in OF_TRAINING]
    values = [(name, getattr(theirs, name), getattr(ours, name)) for name in names]
    return [(n, a, b) for n, a, b in values if a != b and not isinstance(b, nn.Module)]


def _differences(given: PyTree, wanted: PyTree) -> list[str]:
    """What differs between two trees of arrays, one text for each path."""
    held, needed = ({path: x.shape for path, x in flatten_dict(tree, sep='/').items()} for tree in (given, wanted))
    lines = [f'{path} {list(needed[path])} is missing' for path in needed if path not in held]
    lines += [f'{path} {list(held[path])} is unexpected' for path in held if path not in needed]
    return lines + [
        f'{path} has shape {list(held[path])} instead of {list(needed[path])}'
        for path in needed
        if path in held and held[path] != needed[path]
    ]
