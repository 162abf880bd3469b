"""The plan of a run in lines of text."""

from collections.abc import Iterator

from contrastive_jax.plan import traffic
from contrastive_jax.plan.chips import GIB
from contrastive_jax.plan.planning import RESERVED, Plan
from contrastive_jax.plan.programs import Compiled
from contrastive_jax.plan.topologies import host_count

WIDTH = 17  # of the names of the lines


def page(plan: Plan) -> str:
    """All that is known of a run, a subject a line."""
    lines = [*_of_setting(plan)]
    if plan.compiled is None:
        lines.append(_line('memory', plan.refusal))
    else:
        lines += [*_of_step(plan, plan.compiled), *_of_time(plan, plan.compiled)]
    return '\n'.join([*lines, *_of_what_fits(plan)])


def _of_setting(plan: Plan) -> Iterator[str]:
    setting, run, c = plan.setting, plan.run, plan.setting.config
    hosts = host_count(setting.chip, setting.devices)
    where = f'{setting.devices.count} x {setting.chip.title}' + (f' on {hosts} hosts' if hosts > 1 else '')
    data = 'stay on the devices' if setting.images else 'come from the host as crops'
    yield _line('devices', where)
    yield _line(
        'run',
        f'batch {run.batch_size:,} ({run.batch_size // setting.devices.count:,} a device), {c.dtype}, '
        f'{run.image_size} px; {setting.count:,} images {data}; {run.total_steps:,} steps',
    )


def _of_step(plan: Plan, compiled: Compiled) -> Iterator[str]:
    chip, m, moved = plan.setting.chip, compiled.memory, compiled.moved
    yield _line('parameters', f'{compiled.parameters / 1e6:.2f} million')
    yield _line('work', f'{compiled.flops / plan.run.batch_size / 1e9:.4g} GFLOP an image in matrix products, counted')
    of = f' of {chip.memory / GIB:.1f}: {"fits" if plan.fits else "does not fit"}' if chip.memory else ''
    yield _line(
        'memory a device',
        f'{_gib(m.arguments)} arguments, {_gib(m.temporaries)} temporaries, {_gib(m.peak)} GiB at the peak{of}',
    )
    share = 100 * (moved.bytes - moved.unpadded) / max(moved.bytes, 1)
    other = 100 * moved.no_product / max(moved.bytes, 1)
    yield _line(
        'memory traffic',
        f'{moved.bytes / 1e9:.3g} GB a device and step: {share:.1f} % padding of tiles, {other:.0f} % of operations '
        'without a matrix product',
    )
    sums = traffic.by_kind(compiled.collectives)
    parts = [f'{count} {kind} of {size / 2**20:.3g} MiB in all' for kind, (count, size) in sums.items()]
    yield _line('collectives', '; '.join(parts) or 'none')
    if compiled.collectives:
        largest = max(compiled.collectives, key=lambda x: x.bytes)
        shape = largest.shape if len(largest.shape) < 60 else f'{largest.shape[:57]}...'
        yield _line('the largest', f'{largest.kind} {shape}')


def _of_time(plan: Plan, compiled: Compiled) -> Iterator[str]:
    run, chip, found = plan.run, plan.setting.chip, plan.bounds
    if found is None:
        yield _line('time', f'not estimated: no peaks are stated for a {chip.title}')
        return
    ms = [f'{name} {1e3 * x:.3g} ms' for name, x in
          (('compute', found.compute), ('memory', found.memory), ('interconnect', found.interconnect))]  # fmt: skip
    yield _line('bounds of a step', f'{", ".join(ms)}, each at the peak that the vendor states')
    slow, fast = (run.batch_size / x for x in (found.in_turn, found.together))
    hours = [run.total_steps * x / 3600 for x in (found.in_turn, found.together)]
    yield _line(
        'estimate',
        f'{slow:,.0f} images/s, {hours[0]:.3g} h if the three follow each other; at most {fast:,.0f} images/s, '
        f'{hours[1]:.3g} h if they overlap; at stated peaks, without evaluations and input',
    )
    own = compiled.xla_s
    yield _line(
        "XLA's estimate",
        'none' if own is None else f'{1e3 * own:.3g} ms a step' + (', which means nothing' if own <= 0 else ''),
    )


def _of_what_fits(plan: Plan) -> Iterator[str]:
    if plan.largest is not None:
        yield _line(
            'largest batch',
            f'about {plan.largest:,}, by a line through two compiled batches and {RESERVED:.0%} of the memory',
        )
    for other in plan.alternatives:
        verdict = 'fits' if other.fits else 'does not fit'
        yield _line('alternative', f'{other.flags}: {_gib(other.peak)} GiB at the peak, {verdict}')


def _line(name: str, text: str) -> str:
    return f'{name:{WIDTH}} {text}'


def _gib(size: float) -> str:
    return f'{size / GIB:.2f}'
