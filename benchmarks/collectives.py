"""What travels between the devices in a train step of every method, and whether it is what docs/devices.md says.

    python -m benchmarks.collectives                      # every recipe in its `tiny` variant; about 3 minutes
    python -m benchmarks.collectives mocov2:tiny --streamed

Compiles for 8 virtual devices and reads the program. Exits 1 if a collective has other bytes than its formula.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from contrastive_jax.config.check import check
from contrastive_jax.config.load import load
from contrastive_jax.distributed.collectives import exchanged_rows
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.methods import DeepClusterV1
from contrastive_jax.methods.memory import num_rows
from contrastive_jax.plan import hlo, programs, traffic
from contrastive_jax.training.build import build_run
from contrastive_jax.training.run import Run

DEVICES, BATCH, IMAGES = 8, 64, (1437, 8, 8, 3)
CONFIGS = (
    'mocov1:tiny', 'mocov2:tiny', 'mocov2:tiny,symmetric', 'mocov3_r50:tiny', 'mocov3_vit:tiny',
    'dictionary:end_to_end,tiny', 'dictionary:memory_bank,tiny', 'instdis:tiny', 'instdis:cifar10,tiny',
    'invaspread:tiny', 'cmc:tiny', 'byol:tiny', 'simsiam:tiny', 'simclr:tiny', 'simclrv2:tiny,memory', 'dino:tiny',
    'dino:resnet50,tiny', 'cpc:tiny', 'cpc:v1,tiny', 'swav:tiny', 'swav:tiny,queue', 'deepcluster:tiny',
    'deepcluster_v1:tiny', 'exemplar:tiny', 'relative_position:tiny', 'jigsaw:tiny',
    'denoising:tiny', 'context_encoder:tiny', 'colorization:tiny',
    'barlow_twins:tiny', 'vicreg:tiny', 'nnclr:tiny',
)  # fmt: skip

# Numbers of four bytes that a method gathers from all devices: embeddings [B, D] and numbers of the examples [B].
Gathered = Callable[[int, int, Any], int]
GATHERED: dict[str, Gathered] = {
    'MoCo': lambda B, D, run: (2 * B * D + B) * (2 if run.method.symmetric else 1),
    'EndToEnd': lambda B, D, run: 2 * B * D + B,
    'MemoryBank': lambda B, D, run: 2 * B * D + 2 * B,
    'MoCoV3': lambda B, D, run: 2 * B * D + B,
    'SimCLR': lambda B, D, run: 2 * B * D + 2 * B,
    'SimCLRMemory': lambda B, D, run: 2 * B * D + 4 * B,
    'InvaSpread': lambda B, D, run: 3 * B * D + B,
    'InstDis': lambda B, D, run: B * D + B + _noise(B, D, run),
    'CMC': lambda B, D, run: 2 * B * D + B + 3 * B * (run.method.num_negatives + 1),
    'CPC': lambda B, D, run: B * D * _latents(run),
    'DeepCluster': lambda B, D, run: 2 * B * D + B + 2 * num_rows(IMAGES[0]) // 4,  # a byte for each row of the banks
    'DeepClusterV1': lambda B, D, run: B * D + B + num_rows(IMAGES[0]) // 4,
    'BYOL': lambda B, D, run: 0,
    'SimSiam': lambda B, D, run: 0,
    'DINO': lambda B, D, run: 0,
    'SwAV': lambda B, D, run: 0,
    'Exemplar': lambda B, D, run: 0,
    'RelativePosition': lambda B, D, run: 0,
    'Jigsaw': lambda B, D, run: 0,
    'DenoisingAutoencoder': lambda B, D, run: 0,
    'ContextEncoder': lambda B, D, run: 0,
    'Colorization': lambda B, D, run: 0,
    'BarlowTwins': lambda B, D, run: 0,
    'VICReg': lambda B, D, run: 0,
    'NNCLR': lambda B, D, run: 4 * B * D + B,
}


def _noise(B: int, D: int, run: Any) -> int:
    """Of InstDis: indices and gradients of K + 1 rows for each example or, for the softmax over the bank, queries."""
    K = run.method.num_negatives
    return 2 * B * (K + 1) if K else B * D + B


def _latents(run: Any) -> int:
    """Of CPC: latents of an image that are candidates for others, for each direction."""
    patches = run.policy.patches
    side = (run.image_size - patches.size) // patches.stride + 1
    return side * side * len(run.method.directions)


def _of_clusters(D: int, run: Any) -> int:
    """Of DeepCluster: sums and counts of its clusters in each iteration of k-means, once an epoch.

    Of v1 also the covariance of the features, once an epoch, and the gradient of the classifier.
    """
    method = run.method
    if isinstance(method, DeepClusterV1):
        K = method.num_prototypes
        return K * (method.pca_dim + 2) * (method.kmeans_iterations + 1) + D * (D + 1) + K * (D + 1)
    iterations = getattr(method, 'kmeans_iterations', 0)
    return sum(K * (D + 2) * (iterations + 1) for K in method.num_prototypes) if iterations else 0


def _matrices(D: int, run: Any) -> int:
    """Of Barlow Twins and VICReg: matrices [D, D], for one pair of views or for each view, and their gradients."""
    return {'BarlowTwins': 2, 'VICReg': 4}.get(type(run.method).__name__, 0) * D * D


def with_batch(config: ConfigDict) -> ConfigDict:
    """The config with a batch of which each of 8 devices has a few images."""
    with config.unlocked():
        config.batch_size = BATCH
        if size := config.method.get('queue_size'):
            config.method.queue_size = max(size // (2 * BATCH), 1) * 2 * BATCH
    return config


def crops_of_keys(run: Run, devices: int) -> int:
    """Bytes of the crops that a device gets for shuffled keys, if the host sends crops: `collectives.permuted_rows`."""
    if not run.method.shuffles:
        return 0
    views = 2 if getattr(run.method, 'symmetric', False) else 1
    room = exchanged_rows(run.batch_size // devices, devices)
    return views * devices * room * 3 * run.image_size**2


@dataclasses.dataclass(frozen=True)
class Step:
    """What is known of a compiled step.

    Attributes:
      run: what is constant in the run.
      streamed: whether the host sends crops.
      parameters: the number of trained parameters.
      statistics: the number of BN statistics of the trained network.
      collectives: those of the step.
    """

    run: Run
    streamed: bool
    parameters: int
    statistics: int
    collectives: tuple[traffic.Collective, ...]


def differences(step: Step) -> list[str]:
    """What differs from the formulas, a line each."""
    run, found = step.run, step.collectives
    B, D = run.batch_size, run.method.network.projector.output_dim
    sums = {kind: size for kind, (_, size) in traffic.by_kind(found).items()}
    gathered = 4 * GATHERED[type(run.method).__name__](B, D, run)
    exact = {
        'all-gather': gathered,
        'all-to-all': crops_of_keys(run, DEVICES) if step.streamed else 0,
    }
    wrong = [
        f'{kind}: {sums.get(kind, 0):,} bytes instead of {size:,}'
        for kind, size in exact.items()
        if sums.get(kind, 0) != size
    ]
    # What is summed: gradients; statistics of BN and their gradients, for each view; means [D]; numbers of examples
    # [B]; matrices [D, D]
    numbers = step.parameters + 8 * step.statistics + 16 * (B + D) + _of_clusters(D, run) + _matrices(D, run)
    if sums.get('all-reduce', 0) > (most := 4 * numbers):
        wrong.append(f'all-reduce: {sums["all-reduce"]:,} bytes, more than {most:,}')
    if sums.get('reduce-scatter', 0) > gathered:
        wrong.append(f'reduce-scatter: {sums["reduce-scatter"]:,} bytes, more than {gathered:,}')
    return wrong


def read(config: ConfigDict, streamed: bool) -> Step:
    """What travels in the step of a config for images of the digits' size, on 8 devices."""
    devices = find_devices(count=DEVICES)
    assert not (problems := check(config, DEVICES, num_examples=IMAGES[0])), problems
    run = build_run(config, IMAGES[0])
    call, arguments = programs.program(run, devices, None if streamed else programs.Images(IMAGES, np.uint8))
    compiled = call.lower(*arguments).compile({'xla_backend_optimization_level': 0})
    found = traffic.collectives(hlo.Program(compiled.as_text()), DEVICES)
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    state = arguments[0]
    return Step(run, streamed, count(state.params), count(state.method.batch_stats['online']), tuple(found))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line for each config and feed; returns 1 if something differs."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument('config', nargs='*', default=CONFIGS, help='recipes with 8-pixel images; default: all')
    parser.add_argument('--streamed', action='store_true', help='only with crops that the host sends')
    given = parser.parse_args(argv)
    jax.config.update('jax_num_cpu_devices', DEVICES)
    failed = 0
    for name in given.config:
        for streamed in (True,) if given.streamed else (True, False):
            step = read(with_batch(load(name)), streamed)
            wrong = differences(step)
            failed |= bool(wrong)
            sums = [f'{n} {kind} {size:,} B' for kind, (n, size) in traffic.by_kind(step.collectives).items()]
            line = f'{name:28} {"streamed" if streamed else "resident"} {4 * step.parameters:8,} B of parameters: '
            print(line + ', '.join(sums), *wrong, sep='\n    !! ', flush=True)
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
