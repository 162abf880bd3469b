"""The first steps of both sides of `benchmarks.curves`, from the same weights and on the same views.

    python -m benchmarks.curve_steps --data cifar10.npz

The weights and the views are those of the side in PyTorch. It prints our losses, how far those of both sides are apart
at most, and how far their parameters are apart after the last step, as a share of how far they moved. If networks,
losses, moving averages and optimizers are the same, this is rounding alone, and what the curves differ in is chance.
There is no warm-up and nothing is frozen, so that the first steps are large. Few steps say more than many: sooner or
later the input of a ReLU is 0 up to rounding, and has another sign on the other side. MoCo v2 encodes its keys in
order, so that both sides have the same BN groups. It needs torch, lightly and timm.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from benchmarks.curve_recipes import METHODS, Size, recipe
from contrastive_jax.data import npz
from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.errors import exit_code_of
from contrastive_jax.methods import base
from contrastive_jax.optim.optimizers import parameter_path
from contrastive_jax.training.build import build_run
from contrastive_jax.training.run import Run
from contrastive_jax.training.step import init_state

Tensors = dict[str, Any]  # our path of a parameter -> its tensor
LEAVES = {'Conv2d': ('kernel', 'bias'), 'Linear': ('kernel', 'bias')}  # all others are norms: scale and bias


def tensors_of(encoder: Any, projector: Any, predictor: Any = None) -> Tensors:
    """The parameters of networks in PyTorch by the paths that they have here."""
    found: Tensors = {}
    nets = {'encoder': encoder.net.named_modules(), 'projector': _head(projector)}
    if predictor is not None and hasattr(predictor, 'layers'):
        nets['predictor'] = _head(predictor)
    for net, modules in nets.items():
        for name, module in modules:
            weight, bias = LEAVES.get(type(module).__name__, ('scale', 'bias'))
            for leaf, tensor in ((weight, getattr(module, 'weight', None)), (bias, getattr(module, 'bias', None))):
                if tensor is not None:
                    found[f'{net}/{name}/{leaf}'] = tensor
    if hasattr(encoder.net, 'cls_token'):
        found['encoder/cls_token'] = encoder.net.cls_token
    if hasattr(projector, 'last_layer'):
        found['last_layer/kernel'] = projector.last_layer.weight_v
    return found


def _head(net: Any) -> Iterator[tuple[str, Any]]:
    number = -1
    for module in net.layers:
        if type(module).__name__ == 'Linear':
            number += 1
            yield f'linear_{number}', module
        elif 'Norm' in type(module).__name__:
            yield f'bn_{number}', module


def our_path(path: str) -> str:
    """The names of lightly and timm for a path of ours: `tensors_of` keeps the names of modules."""
    encoder, _, rest = path.partition('/')
    if encoder != 'encoder' or '/' not in rest:
        return path
    *modules, leaf = rest.split('/')
    name = '.'.join(modules)
    for ours, theirs in (
        ('downsample_conv', 'shortcut.0'), ('downsample_bn', 'shortcut.1'), ('mlp_', 'mlp.'), ('blocks_', 'blocks.'),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    if name.startswith('layer'):
        name = name.replace('_0', '.0')
    return f'encoder/{name}/{leaf}'


def filled(tree: PyTree, tensors: Tensors) -> PyTree:
    """Our parameters with the values of PyTorch's."""

    def value(path: tuple[Any, ...], leaf: Array) -> Array:
        name = parameter_path(path)
        x = tensors[our_path(name)].detach().numpy()
        if x.ndim == 4:
            x = x.transpose(2, 3, 1, 0)
        elif x.ndim == 2 and name != 'prototypes':
            x = x.T
        return jnp.array(x.reshape(leaf.shape))  # a copy: PyTorch changes its own in place

    return jax.tree_util.tree_map_with_path(value, tree)


def without_beginning(config: ConfigDict) -> None:
    """Without warm-up and freezing, so that the first steps have the full learning rate; keys of MoCo in order."""
    config.schedule.warmup_epochs = 0.0
    config.optimizer.update(freeze_epochs=0.0, freeze_steps=0)
    if config.method.name == 'moco':
        config.method.shuffle_bn = False


def train_torch(config: ConfigDict, images: np.ndarray, steps: int) -> tuple[Any, Any, list[Any]]:
    """Trains some steps with PyTorch.

    Returns:
      The method before the steps, after them, and for each step its views, float [B, s, s, C], and its loss.
    """
    import torch
    from lightly.models import utils

    from benchmarks.torch_optimizers import build_optimizer, schedule
    from benchmarks.torch_recipes import PEERS, train_step

    utils.batch_shuffle = lambda x: (x, None)
    utils.batch_unshuffle = lambda x, order: x
    torch.manual_seed(config.seed)
    peer, B = PEERS[config.method.name](config).train(), config.batch_size
    before = PEERS[config.method.name](config)
    before.load_state_dict(peer.state_dict())
    if config.method.get('queue_size'):  # the state does not hold the queue
        queue_of(before).copy_(queue_of(peer))
    per_epoch = len(images) // B
    optimizer, rates = build_optimizer(peer, config), schedule(config, per_epoch, round(config.epochs * per_epoch))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    taken = []
    for step in range(steps):
        views, loss = train_step(peer, optimizer, rates, step, per_epoch, pixels[step * B : (step + 1) * B])
        taken.append((tuple(x.permute(0, 2, 3, 1).numpy() for x in views), loss))
    return before, peer, taken


def queue_of(peer: Any) -> Any:
    """The queue of MoCo or NNCLR in PyTorch, a tensor [K, D]."""
    return (peer.neighbors if hasattr(peer, 'neighbors') else peer.criterion.memory_bank).bank


def train_ours(run: Run, config: ConfigDict, before: Any, taken: Sequence[Any]) -> tuple[PyTree, list[float]]:
    """Trains the same steps with this package; returns the parameters and the losses."""
    state = jax.jit(lambda: init_state(run))()
    params, method = filled(state.params, parameters_of(before)), state.method
    if method.target:
        method = dataclasses.replace(method, target=filled(method.target, tensors_of(*before.target)))
    order = np.arange(config.batch_size)
    if 'queue' in method.memory:
        queue = method.memory['queue']
        queue = {**queue, 'keys': jnp.array(queue_of(before).numpy().reshape(queue['keys'].shape))}
        method = dataclasses.replace(method, memory={'queue': queue})
    if config.method.name == 'moco':
        # Image n is in group n mod S of lightly's norms, and in group n // (B / S) of ours.
        order = order.reshape(config.bn_group_size, -1).T.ravel()

    @jax.jit
    def step(params: PyTree, method: base.MethodState, state: PyTree, views: Any, number: int) -> Any:
        progress = number / run.total_steps
        loss_of = lambda p: run.method.loss(  # noqa: E731
            p, method, {'views': views}, rng=jax.random.key(0), progress=progress
        )
        (loss, (method, _)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, state = run.optimizer.update(grads, state, params)
        params, method = run.method.after_update(optax.apply_updates(params, updates), method, progress=progress)
        return loss, params, method, state

    losses, optimizer = [], run.optimizer.init(params)
    for number, (views, _) in enumerate(taken):
        given = tuple(x[order] for x in views)
        loss, params, method, optimizer = step(params, method, optimizer, given, number)
        losses.append(float(loss))
    return params, losses


def parameters_of(peer: Any) -> Tensors:
    """`tensors_of` the trained networks of a method; prototypes are unit vectors, as they are used in the next step."""
    found = tensors_of(peer.encoder, peer.projector, peer.predictor)
    if hasattr(peer, 'prototypes'):
        found['prototypes'] = peer.prototypes.weight / peer.prototypes.weight.norm(dim=1, keepdim=True)
    return found


def compare(method: str, images: np.ndarray, size: Size, steps: int) -> str:
    """Trains both sides, and returns a row of the table."""
    config = recipe(method, size, 0)
    with config.unlocked():
        config.data.update(source='npz', path='images.npz')
        without_beginning(config)
    before, after, taken = train_torch(config, images, steps)
    run = build_run(config, len(images))
    params, losses = train_ours(run, config, before, taken)
    theirs = np.array([loss for _, loss in taken])
    if config.method.name == 'byol':  # the sum of two squared distances, by half the sum of two negative cosines
        theirs = 4 + 4 * theirs
    start, end = (filled(params, parameters_of(each)) for each in (before, after))
    gone = np.sqrt(sum(float(jnp.sum((a - b) ** 2)) for a, b in zip(*map(jax.tree.leaves, (start, end)), strict=True)))
    apart = np.sqrt(
        sum(float(jnp.sum((a - b) ** 2)) for a, b in zip(*map(jax.tree.leaves, (params, end)), strict=True))
    )
    error = float(np.max(np.abs(np.array(losses) - theirs) / np.maximum(1, np.abs(theirs))))
    return f'| {method} | {losses[0]:.4f} | {losses[-1]:.4f} | {error:.0e} | {apart / gone:.0e} |'


def main(argv: Sequence[str]) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser('benchmarks.curve_steps', description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--data', required=True, help='an .npz file of CIFAR-10')
    parser.add_argument('--methods', default=','.join(METHODS), help='separated by commas; default: all')
    parser.add_argument('--steps', type=int, default=2, help='how many; default: 2')

    def run() -> int:
        given, size = parser.parse_args(argv), Size()
        images = npz.load(Path(given.data)).array[: size.train_images]
        print('| method | first loss | last loss | losses differ | parameters are apart |\n|---|---|---|---|---|')
        for method in given.methods.split(','):
            print(compare(method, images, size, given.steps), flush=True)
        return 0

    return exit_code_of(run)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
