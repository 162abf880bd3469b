"""The plan of every ImageNet recipe, as its paper has it, for slices of TPUs and for eight H100s: a table in Markdown.

    python -m benchmarks.plans                                         # hours: each program takes some 10 CPU minutes
    python -m benchmarks.plans mocov2 simclr --topology h100:8 --dtype bfloat16

Nothing runs, and no data is read. A recipe that cannot be planned gets a line with the reason.
"""

import argparse
import sys
from collections.abc import Sequence

import jax

from contrastive_jax.config.load import load
from contrastive_jax.errors import UserError
from contrastive_jax.plan.chips import GIB
from contrastive_jax.plan.planning import Plan, make, prepare
from contrastive_jax.plan.programs import use_least_effort
from contrastive_jax.plan.stack import restart_with_larger_stack
from contrastive_jax.plan.topologies import described

IMAGENET = 1_281_167
RECIPES = (
    'mocov1', 'mocov2', 'mocov3_r50', 'mocov3_vit', 'simclr', 'simclrv2', 'byol', 'simsiam', 'swav', 'dino',
    'dino:resnet50', 'deepcluster', 'instdis', 'cmc', 'cpc',
)  # fmt: skip
TOPOLOGIES = ('v5e:4x4', 'v4:2x2x2', 'v5p:2x2x2', 'v6e:2x4', 'h100:8')
HEAD = (
    'recipe', 'topology', 'batch', 'dtype', 'GFLOP/image', 'GiB a device', 'of', 'fits', 'padding',
    'without products', 'compute, memory, interconnect, ms', 'images/s', 'compiled in',
)  # fmt: skip


def row(name: str, topology: str, dtype: str) -> tuple[str, ...]:
    """The cells of a line of the table.

    Raises:
      UserError: it cannot be planned.
    """
    config = load(name)
    with config.unlocked():
        config.dtype = dtype or config.dtype
    chip, devices = described(topology)
    plan = make(prepare(config, chip, devices, IMAGENET), quick=True)
    start = name, topology, f'{plan.run.batch_size:,}', plan.setting.config.dtype
    of = f'{chip.memory / GIB:.1f}'
    if plan.compiled is None:
        return *start, '', plan.refusal, of, 'no', *[''] * 5
    return *start, *_measured(plan, of)


def _measured(plan: Plan, of: str) -> tuple[str, ...]:
    found, bounds = plan.compiled, plan.bounds
    assert found is not None and bounds is not None
    moved = found.moved
    return (
        f'{found.flops / plan.run.batch_size / 1e9:.2f}',
        f'{found.memory.peak / GIB:.2f}',
        of,
        'yes' if plan.fits else 'no',
        f'{100 * (moved.bytes - moved.unpadded) / moved.bytes:.0f} %',
        f'{100 * moved.no_product / moved.bytes:.0f} %',
        ', '.join(f'{1e3 * x:.1f}' for x in (bounds.compute, bounds.memory, bounds.interconnect)),
        f'{plan.run.batch_size / bounds.in_turn:,.0f}',
        f'{found.compile_s:.0f} s',
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table, a line as soon as it is known; returns the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument('recipe', nargs='*', default=RECIPES, help='recipes; default: all for ImageNet')
    parser.add_argument('--topology', action='append', help='a topology; may be given several times')
    parser.add_argument('--dtype', default='', help="instead of the recipes'")
    parser.add_argument('--effort', choices=('usual', 'least'), default='usual', help='as for contrastive_jax.plan')
    given = parser.parse_args(argv)
    jax.config.update('jax_platforms', 'cpu')
    if given.effort == 'least':
        use_least_effort()
    print(f'| {" | ".join(HEAD)} |\n|{"---|" * len(HEAD)}', flush=True)
    for topology in given.topology or TOPOLOGIES:
        for name in given.recipe:
            try:
                cells = row(name, topology, given.dtype)
            except UserError as error:
                cells = (name, topology, f'cannot be planned: {error.problems[0]}', *[''] * (len(HEAD) - 3))
            print(f'| {" | ".join(cells)} |', flush=True)
            jax.clear_caches()
    return 0


if __name__ == '__main__':
    restart_with_larger_stack(sys.argv[1:], TOPOLOGIES)
    sys.exit(main())
