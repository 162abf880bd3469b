"""Compares the time of a method's train step with that of a supervised step, and with the operations of both.

    python -m benchmarks.step [--preset r18_cifar] [--batch_size 32] [--dtype bfloat16] [--json out.json]

Prints images/s and peak memory of both, the measured and the counted ratio, and the share of augmentation, queue,
moving average and metrics in a step. benchmarks/README.md describes what is timed and has the results.
"""

import argparse
import dataclasses
import importlib
import json
import platform
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import programs
from benchmarks.measure import Spread, Timed, interleave
from benchmarks.programs import Program
from contrastive_jax.config.check import check
from contrastive_jax.errors import UserError
from contrastive_jax.methods import MoCo, MoCoV3
from contrastive_jax.plan import flops
from contrastive_jax.training.build import build_run
from contrastive_jax.training.run import Run
from contrastive_jax.training.step import init_state

GOAL = 1.15  # measured ratio / counted ratio


@dataclasses.dataclass(frozen=True)
class Preset:
    """The methods and sizes of a measurement.

    Attributes:
      methods: title -> recipe and variant, e.g. 'mocov2:cifar10'.
      batch_sizes: the batch size on a CPU and on accelerators.
      classes: the number of classes of the supervised step.
      examples: the size of the data set, for the schedules.
      on_device: whether whole images are on the device, which then also cuts the crops; otherwise the host cuts them.
      torch_gflop: GFLOP per image counted by PyTorch's FlopCounterMode: of the supervised step, then of each method.
    """

    methods: dict[str, str]
    batch_sizes: tuple[int, int]
    classes: int
    examples: int
    on_device: bool
    torch_gflop: tuple[float, ...] = ()


PRESETS = {
    'tiny': Preset({'MoCo v2': 'mocov2:tiny', 'MoCo v3': 'mocov3_r50:tiny'}, (16, 16), 10, 1797, True),
    'r18_cifar': Preset(
        {'MoCo v2': 'mocov2:cifar10', 'MoCo v3': 'mocov3_r50:cifar10'}, (32, 512), 10, 50_000, True, (3.33, 4.44, 8.96)
    ),
    'r50_imagenet': Preset(
        {'MoCo v2': 'mocov2', 'MoCo v3': 'mocov3_r50'}, (8, 256), 1000, 1_281_167, False, (24.29, 32.53, 65.10)
    ),
    'r18_family': Preset(
        {'SimCLR': 'simclr:cifar10', 'BYOL': 'byol:cifar10', 'SimSiam': 'simsiam:cifar10'},
        (32, 512),
        10,
        50_000,
        True,
        (3.33, 6.66, 8.96, 6.66),
    ),
    'vit_s_imagenet': Preset({'MoCo v3': 'mocov3_vit'}, (8, 256), 1000, 1_281_167, False, (27.48, 73.68)),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints, and writes the file that --json names."""
    on_cpu = jax.default_backend() == 'cpu'
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--preset', choices=PRESETS, default='r18_cifar')
    parser.add_argument('--batch_size', type=int, help='batch size on one device; the default depends on the preset')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32' if on_cpu else 'bfloat16')
    parser.add_argument('--windows', type=int, default=5, help='number of interleaved measurements of each program')
    parser.add_argument('--steps_per_window', type=int, default=1 if on_cpu else 30)
    parser.add_argument(
        '--parts', choices=('alone', 'left_out'), default='alone' if on_cpu else 'left_out',
        help='time each part alone, or the step without it; the latter is exact only on an idle machine',
    )  # fmt: skip
    parser.add_argument('--json', metavar='OUT', help='also write the results to this file')
    args = parser.parse_args(argv)
    for name in ('windows', 'steps_per_window'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} {getattr(args, name)} -> it must be at least 1')

    preset, device = PRESETS[args.preset], jax.devices()[0]
    batch_size = preset.batch_sizes[not on_cpu] if args.batch_size is None else args.batch_size
    result: dict[str, Any] = {
        **{name: value for name, value in vars(args).items() if name != 'json'},
        'batch_size': batch_size,
        'device': f'{device.device_kind} ({platform.machine()})',
        'jax': jax.__version__,
        'methods': {},
    }
    print(f'{args.preset}, batch {batch_size}, {args.dtype}, one device: {result["device"]}, jax {jax.__version__}')
    print(f'{args.windows} interleaved windows of {args.steps_per_window} step(s); median [minimum, maximum]')
    for i, (title, path) in enumerate(preset.methods.items()):
        try:
            run = build(path, preset, batch_size, args.dtype)
        except UserError as error:
            parser.error(str(error))
        found = measure(run, preset, args.windows, args.steps_per_window, args.parts)
        if preset.torch_gflop:
            found['torch_counted_ratio'] = preset.torch_gflop[i + 1] / preset.torch_gflop[0]
        result['methods'][title] = found
        print(f'\n{report(title, found, args.parts)}', flush=True)
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as file:
            json.dump(result, file, indent=2)


def build(path: str, preset: Preset, batch_size: int, dtype: str) -> Run:
    """The run of a recipe such as 'mocov2:cifar10', with another batch size.

    Raises:
      UserError: the batch size is not possible for the recipe.
    """
    name, _, variant = path.partition(':')
    config: ConfigDict = importlib.import_module(f'contrastive_jax.configs.{name}').get_config(variant)
    config.dtype, config.batch_size = dtype, batch_size
    config.bn_group_size = min(config.bn_group_size, batch_size)
    if config.method.get('queue_size') and batch_size > 0:
        config.method.queue_size = max(config.method.queue_size // batch_size, 1) * batch_size
    if problems := check(config, devices=1):
        raise UserError('\n'.join(problems))
    return build_run(config, preset.examples)


def measure(run: Run, preset: Preset, windows: int, steps: int, parts: str) -> dict[str, Any]:
    """Times the programs of one method.

    Returns:
      'rows': seconds, images/s, GFLOP and peak memory of each program; 'ratio' and 'counted_ratio': the measured and
      counted ratio to the supervised step; 'over_passes': the ratio to the encoder passes of a step; 'shares': the
      share of each part in the step with augmentation.
    """
    rng = np.random.default_rng(0)
    state = jax.jit(partial(init_state, run))()
    crops = programs.crops(run, preset.classes, rng)
    batch = programs.resident(run, preset.classes, rng) if preset.on_device else crops
    bare = programs.without_augmentation(run)
    compared = {
        'supervised step': Program(*programs.supervised(run, preset.classes, state), crops),
        'forward pass': programs.forward(run, state, crops),
        'train step': Program(programs.step(bare), state, crops),
        'train step with augmentation': Program(programs.step(run), state, batch),
    }
    if not isinstance(run.method, MoCo | MoCoV3):
        of_parts = {}  # for other methods only the whole step is timed
    elif parts == 'alone':
        of_parts = programs.alone(run, state, batch, rng)
    else:
        replaced = programs.left_out(run.method)
        of_parts = {name: Program(programs.step(bare), state, crops, these) for name, these in replaced.items()}
    timed = {name: Timed(program, steps) for name, program in {**compared, **of_parts}.items()}
    interleave(list(timed.values()), windows)

    # Seconds of a step, [windows]; ratios are computed window by window.
    supervised, forward, step, whole = (np.array(timed[name].seconds) for name in compared)
    trained, encoded = programs.PASSES[type(run.method)]
    # Augmentation is always measured by difference as well: it may slow a step down by more than its own time.
    shares = {'augmentation': (whole - step) / whole}
    for name in of_parts:
        seconds = np.array(timed[name].seconds)
        shares[name] = (seconds if parts == 'alone' else step - seconds) / whole
    gflop = {name: count(program) / run.batch_size / 1e9 for name, program in compared.items()}
    return {
        'rows': {
            name: {
                'seconds': Spread.of(timed[name].seconds)._asdict(),
                'images_per_second': run.batch_size / Spread.of(timed[name].seconds).median,
                'gflop_per_image': gflop[name],
                'peak_memory': timed[name].memory._asdict(),
            }
            for name in compared
        },
        'ratio': Spread.of(step / supervised)._asdict(),
        'counted_ratio': gflop['train step'] / gflop['supervised step'],
        'passes': f'{trained} supervised + {encoded} forward',
        'over_passes': Spread.of(step / (trained * supervised + encoded * forward))._asdict(),
        'shares': {name: Spread.of(share)._asdict() for name, share in shares.items()},
    }


def count(program: Program) -> int:
    """FLOP of one step."""
    return flops.count(jax.make_jaxpr(partial(program.step, axis_name=None))(program.state, program.batch))


def report(title: str, found: dict[str, Any], parts: str) -> str:
    """The results of one method as a table."""
    lines = [f'{title:30} {"images/s":>9}  {"ms/step":>26}  {"GFLOP/image":>11}  peak memory']
    for name, row in found['rows'].items():
        ms = Spread(*(1e3 * s for s in row['seconds'].values()))
        memory = f'{row["peak_memory"]["bytes"] / 2**20:.1f} MiB ({row["peak_memory"]["source"]})'
        per_second, gflop = row['images_per_second'], row['gflop_per_image']
        lines.append(f'{name:30} {per_second:9.1f}  {_bracket(ms, ".1f"):>26}  {gflop:11.4g}  {memory}')
    measured, counted = Spread(**found['ratio']), found['counted_ratio']
    torch = f' ({found["torch_counted_ratio"]:.2f} by PyTorch)' if 'torch_counted_ratio' in found else ''
    how = 'timed alone' if parts == 'alone' else 'by leaving it out'
    percent = [
        f'{name} {_bracket(Spread(*(100 * x for x in share.values())), ".1f")} %'
        for name, share in found['shares'].items()
    ]
    return '\n'.join(
        [
            *lines,
            f'train / supervised step: {_bracket(measured, ".2f")} measured, {counted:.3f} counted{torch}; '
            f'measured / counted: {measured.median / counted:.2f} (goal: at most {GOAL})',
            f'train step / ({found["passes"]}): {_bracket(Spread(**found["over_passes"]), ".2f")}',
            f'share of the step with augmentation: {percent[0]} (with - without)'
            + (f'; each {how}: {", ".join(percent[1:])}' if percent[1:] else ''),
        ]
    )


def _bracket(s: Spread, form: str) -> str:
    return f'{s.median:{form}} [{s.low:{form}}, {s.high:{form}}]'


if __name__ == '__main__':
    main()
