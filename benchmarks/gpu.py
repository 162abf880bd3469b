"""The parts of `benchmarks/gpu.sh`: each measures one thing on one device and appends a JSON line to a file.

    python -m benchmarks.gpu PART [--small] [--json results.jsonl]
    python -m benchmarks.gpu --table results.jsonl

--small takes sizes that a CPU can do; it is the default on a CPU. benchmarks/README.md describes the parts.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# PyTorch gets memory of the same card, in the part that compares with it.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

import jax
import numpy as np
from jax import Array, lax

from benchmarks import gpu_input, programs, step
from benchmarks.measure import Spread, Timed, interleave
from benchmarks.programs import Program
from contrastive_jax.data.sources import ArraySource
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.reproduce.run_experiment import load_config
from contrastive_jax.reproduce.table import align
from contrastive_jax.training.build import build_run
from contrastive_jax.training.feed import open_feed
from contrastive_jax.training.run import Run
from contrastive_jax.training.step import init_state
from contrastive_jax.workdir import about


@dataclasses.dataclass(frozen=True)
class Row:
    """One number of a part.

    Attributes:
      what: what was measured.
      unit: its unit.
      spread: median, minimum and maximum of the windows.
      goal: what it should reach, in words; '': none.
    """

    what: str
    unit: str
    spread: Spread
    goal: str = ''


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
      small: whether sizes are those for a CPU.
      dtype: the dtype of the networks.
      windows, steps: number of windows, and of steps in each.
    """

    small: bool

    @property
    def dtype(self) -> str:
        return 'float32' if self.small else 'bfloat16'

    @property
    def windows(self) -> int:
        return 3 if self.small else 7

    @property
    def steps(self) -> int:
        return 1 if self.small else 30


def peak(sizes: Sizes) -> list[Row]:
    """Operations a second of one product of square matrices."""
    n = 256 if sizes.small else 8192
    return [Row(f'{n} x {n} product, {dtype}', 'TFLOP/s', matrix_peak(dtype, n)) for dtype in ('bfloat16', 'float32')]


def matrix_peak(dtype: str, n: int) -> Spread:
    """TFLOP/s of products of matrices [n, n], which follow one another in a loop on the device."""
    products, windows = 20, 7

    @jax.jit
    def multiply(a: Array, b: Array) -> Array:
        return lax.fori_loop(0, products, lambda _, x: x @ b, a)

    # Random numbers, because a card clocks higher on zeros; of this size they neither grow nor vanish.
    b = (jax.random.normal(jax.random.key(0), (n, n)) / n**0.5).astype(dtype)
    found = []
    for _ in range(1 + windows):
        began = time.perf_counter()
        jax.block_until_ready(multiply(b, b))
        found.append(products * 2 * n**3 / (time.perf_counter() - began) / 1e12)
    return Spread.of(found[1:])  # the first one compiles


def torch_step(sizes: Sizes) -> list[Row]:
    """The whole training step of MoCo v2 on 32 pixels beside PyTorch, in interleaved windows."""
    preset = step.PRESETS['r18_cifar']
    run = step.build('mocov2:cifar10', preset, 16 if sizes.small else 512, sizes.dtype)
    rng = np.random.default_rng(0)
    batch = programs.resident(run, preset.classes, rng)
    # To generate code for a CPU takes the compiler longer than a part has.
    compiled = 'PyTorch, tuned and traced' if sizes.small else 'PyTorch, tuned and compiled'
    timed: dict[str, Any] = {'ours': Timed(Program(programs.step(run), _state(run), batch), sizes.steps)}
    if importlib.util.find_spec('torch') is None:
        print('torch is not installed: ours alone is measured -> pip install torch torchvision lightly')
    else:
        from benchmarks import torch_moco

        given = np.array(batch['images']), run.batch_size, sizes.steps
        peers: dict[str, Callable[[], Any]] = {
            'PyTorch, tuned': lambda: torch_moco.Tuned(*given),
            compiled: lambda: torch_moco.Tuned(*given, backend='eager' if sizes.small else 'inductor'),
            'lightly as shipped': lambda: torch_moco.Shipped(*given),
        }
        for name, make in peers.items():
            try:
                timed[name] = make()
            except Exception as error:  # a peer that cannot be built here must not cost the others
                print(f'{name} is left out: {type(error).__name__}: {error}', file=sys.stderr)
    interleave(list(timed.values()), sizes.windows)
    rows = [
        Row(name, 'images/s', Spread.of(run.batch_size / np.array(one.seconds)))
        for name, one in timed.items()
    ]  # fmt: skip
    goals = {} if sizes.small else {compiled: '>= 1.0', 'lightly as shipped': '>= 1.5'}
    for name, one in list(timed.items())[1:]:
        ratio = np.array(one.seconds) / np.array(timed['ours'].seconds)
        rows.append(Row(f'ours / {name}', 'x', Spread.of(ratio), goals.get(name, '')))
    return rows


def epoch(sizes: Sizes) -> list[Row]:
    """An epoch of the CIFAR-10 recipe of MoCo v2 on images in device memory, without evaluation."""
    n = 256 if sizes.small else 50_000
    changes: dict[str, Any] = {'dtype': sizes.dtype}
    if sizes.small:
        changes |= {'batch_size': 64, 'bn_group_size': 8, 'encoder.name': 'resnet_tiny', 'method.queue_size': 256}
    config = load_config('mocov2:cifar10', changes)
    rng = np.random.default_rng(0)
    source = ArraySource(rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, n))
    run, devices = build_run(config, n), find_devices('jit', count=1)
    feed = open_feed(run, devices, source, config=config)
    state = devices.place(_state(run), run.state_specs)
    seconds, at = [], 0
    for _ in range(1 + sizes.windows):
        began = time.perf_counter()
        state, metrics = feed.advance(state, at, at + run.steps_per_epoch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - began)
        at += run.steps_per_epoch
    feed.close()
    found = np.array(seconds[1:])  # the first one compiles
    return [
        Row(f'an epoch of {n:,} images', 's', Spread.of(found)),
        Row('200 of them', 'min', Spread.of(200 / 60 * found), '' if sizes.small else '<= 5 on one H100'),
    ]


def vit(sizes: Sizes) -> list[Row]:
    """MoCo v3 with ViT-B/16: the share of the matrix peak that the counted operations of its step have."""
    name, batch = ('mocov3_vit:tiny', 16) if sizes.small else ('mocov3_vit:base', 256)
    run = step.build(name, step.PRESETS['vit_s_imagenet'], batch, sizes.dtype)
    program = Program(programs.step(run), _state(run), programs.crops(run, 1000, np.random.default_rng(0)))
    flop = step.count(program)
    timed = Timed(program, sizes.steps)
    interleave([timed], sizes.windows)
    top = matrix_peak(sizes.dtype, 256 if sizes.small else 8192)
    rate = flop / np.array(timed.seconds) / 1e12
    return [
        Row(f'{name}, batch {batch}', 'images/s', Spread.of(batch / np.array(timed.seconds))),
        Row('counted operations', 'TFLOP/s', Spread.of(rate)),
        Row('matrix peak', 'TFLOP/s', top),
        Row('share of the peak', '%', Spread.of(100 * rate / top.median), '' if sizes.small else '>= 45'),
        Row('peak memory', 'GiB', Spread.of([timed.memory.bytes / 2**30])),
    ]


def overhead(sizes: Sizes) -> list[Row]:
    """The step of MoCo v2 beside a supervised step of the same encoder, measured and counted."""
    preset = step.PRESETS['tiny' if sizes.small else 'r50_imagenet']
    run = step.build(preset.methods['MoCo v2'], preset, preset.batch_sizes[not sizes.small], sizes.dtype)
    found = step.measure(run, preset, sizes.windows, sizes.steps, 'alone')
    ratio = Spread(**found['ratio'])
    rows = [
        Row(name, 'images/s', Spread.of([row['images_per_second']])) for name, row in found['rows'].items()
    ]  # fmt: skip
    over = Spread(*(x / found['counted_ratio'] for x in ratio))
    return [
        *rows,
        Row('train / supervised step, measured / counted', 'x', over, '' if sizes.small else f'<= {step.GOAL}'),
    ]


def pipeline(sizes: Sizes) -> list[Row]:
    """JPEG files to crops on the host, alone and with the step that they feed."""
    found = gpu_input.measure(sizes.small, sizes.dtype)
    return [
        Row('JPEG files to two crops', 'images/s', found.loader),
        Row('step on crops that are there', 'images/s', found.step),
        Row('step on crops of the loader', 'images/s', found.together),
        Row('time that the device waits', '%', found.waits),
    ]


PARTS: dict[str, Callable[[Sizes], list[Row]]] = {
    'peak': peak,
    'torch_step': torch_step,
    'epoch': epoch,
    'vit': vit,
    'pipeline': pipeline,
    'overhead': overhead,
}


def _state(run: Run) -> Any:
    return jax.jit(lambda: init_state(run))()


def line_of(part: str, small: bool, rows: Sequence[Row], seconds: float) -> dict[str, Any]:
    """The JSON object of a part."""
    device = jax.devices()[0]
    return {
        'part': part,
        'small': small,
        'rows': [{'what': r.what, 'unit': r.unit, **r.spread._asdict(), 'goal': r.goal} for r in rows],
        'device': f'{device.device_kind} ({platform.machine()}, {os.cpu_count()} cores)',
        'jax': jax.__version__,
        'torch': importlib.metadata.version('torch') if importlib.util.find_spec('torch') else '',
        'commit': about.commit(),
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'seconds': round(seconds, 1),
        'command': shlex.join(['python', '-m', 'benchmarks.gpu', *sys.argv[1:]]),
    }


def table(lines: Sequence[dict[str, Any]]) -> str:
    """All parts as a table; a part that failed has the reason instead of numbers."""
    cells = [('part', 'what', 'median', 'minimum', 'maximum', 'unit', 'goal')]
    for line in lines:
        if 'failed' in line:
            cells.append((line['part'], f'failed: {line["failed"]}', *[''] * 5))
        for row in line.get('rows', ()):
            numbers = (f'{row[name]:.4g}' for name in ('median', 'low', 'high'))
            cells.append((line['part'] + ' (small)' * line['small'], row['what'], *numbers, row['unit'], row['goal']))
    devices = {f'{line["device"]}, jax {line["jax"]}' for line in lines if 'device' in line}
    return '\n'.join([*sorted(devices), align(cells)])


def main(argv: Sequence[str] | None = None) -> None:
    """Measures a part, or prints the table of those that were measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('part', nargs='?', choices=PARTS, help='what is measured')
    parser.add_argument('--small', action='store_true', help='sizes for a CPU; the default on a CPU')
    parser.add_argument('--json', metavar='FILE', help='append the JSON line to this file')
    parser.add_argument('--table', metavar='FILE', help='print the table of the lines of this file, and exit')
    args = parser.parse_args(argv)
    if args.table:
        print(table([json.loads(line) for line in Path(args.table).read_text(encoding='utf-8').splitlines()]))
        return
    if args.part is None:
        parser.error(f'no part is given -> choose from {", ".join(PARTS)}')
    small = args.small or jax.default_backend() == 'cpu'
    began = time.monotonic()
    rows = PARTS[args.part](Sizes(small))
    line = line_of(args.part, small, rows, time.monotonic() - began)
    print(table([line]), flush=True)
    if args.json:
        with open(args.json, 'a', encoding='utf-8') as file:
            file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
    main()
