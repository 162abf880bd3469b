"""Whether the global batch, batch-norm groups and chunks can be divided among the devices."""

import math
from collections.abc import Iterator
from itertools import islice

from ml_collections import ConfigDict

from contrastive_jax.config.fields import MAX_BATCH
from contrastive_jax.methods import method_or_none
from contrastive_jax.rules import Rules

MAX_PROPOSALS = 4096  # batch sizes that are tried, so that a hint does not take seconds


def with_divisible_batch(c: ConfigDict, devices: int, rules: Rules) -> ConfigDict:
    """Adds a problem if the devices do not divide the batch, and returns the config with a batch size that they divide.

    The other rules are then applied to the proposed batch size, so that a config that follows all remedies is legal.
    """
    B = c.batch_size
    if not 1 <= B <= MAX_BATCH or B % devices == 0:
        return c
    proposed, method = c.copy_and_resolve_references(), method_or_none(c.method.name)

    def misfit(batch: int) -> int:
        """How many other rules a batch size breaks: those of batch-norm groups, chunks, queue and memories."""
        proposed.batch_size = batch
        broken = Rules(proposed)
        check_groups(proposed, devices, broken)
        check_chunks(proposed, devices, broken)
        if method is not None:
            method.check(proposed, broken)
        return len(broken.found)

    # The nearest one that breaks the fewest rules; of two as near, the larger one.
    best, fewest = 0, -1
    for batch in islice(multiples_by_distance(devices, B), MAX_PROPOSALS):
        count = misfit(batch)
        if not best or count < fewest:
            best, fewest = batch, count
        if not fewest:
            break
    proposed.batch_size = best
    rules.add(
        f'batch_size {B} is not divisible by {devices} devices', field='batch_size', remedy=f'use {best}', value=best
    )
    return proposed


def check_groups(c: ConfigDict, devices: int, rules: Rules) -> None:
    """Adds a problem if batch-norm groups do not fill the devices evenly.

    A group lies within a device, or consists of whole devices. If a method passes both views through one batch norm,
    view by view on each device, a group lies within one view on one device.
    """
    batch, group = c.batch_size, c.bn_group_size
    local = batch // devices
    if group <= 0 or batch % devices:
        return
    method = method_or_none(c.method.name)
    concat_views = method is not None and method.concat_views
    within = divisors(local)
    legal = within if concat_views else sorted({*within, *(local * n for n in divisors(devices))})
    if group in legal:
        return
    near = nearest(group, legal)
    whole = 'one batch norm over both views of the whole batch' if concat_views else 'the whole batch'
    remedy = f'use {" or ".join(map(str, near))}, or 0 for {whole}'
    if group > batch:
        message, near, remedy = f'is larger than batch_size {batch}', [0], f'use 0 for {whole}'
    elif group % local == 0 and batch % group == 0:
        message = f'does not divide the {local} examples of a device, as {c.method.name} needs'
    elif devices == 1:
        message = f'does not divide batch_size {batch}'
    else:
        message = f'does not fit {devices} devices of {local} examples'
    rules.add(f'bn_group_size {group} {message}', field='bn_group_size', remedy=remedy, value=near[-1])


def check_chunks(c: ConfigDict, devices: int, rules: Rules) -> None:
    """Adds a problem if chunks do not divide the examples of a device, or if something is drawn by position."""
    local, chunks = c.batch_size // devices, c.chunks
    if chunks <= 1 or c.batch_size % devices:
        return
    if drop_path := c.encoder.get('drop_path'):
        rules.add(
            f'encoder.drop_path {drop_path!r} draws by the position in the batch',
            field='encoder.drop_path',
            remedy='use 0, or chunks 1',
            value=0.0,
        )
    elif local % chunks:
        near = nearest(chunks, divisors(local))
        rules.add(
            f'chunks {chunks} does not divide the {local} examples of a device',
            field='chunks',
            remedy=f'use {" or ".join(map(str, near))}',
            value=near[-1],
        )


def check_groups_in_chunks(c: ConfigDict, devices: int, rules: Rules) -> None:
    """Adds a problem if batch-norm groups do not lie within the chunks of a network that has batch norm."""
    piece, group = c.batch_size // devices // c.chunks, c.bn_group_size
    if c.chunks > 1 and (not group or piece % group):
        value = nearest(group or piece, divisors(piece))[0]
        rules.add(
            f'bn_group_size {group} does not fit chunks of {piece} examples: each would have its own BN statistics',
            field='bn_group_size',
            remedy=f'use {value} (a divisor of {piece}), or an encoder and heads without BN',
            value=value,
        )


def multiples_by_distance(n: int, to: int) -> Iterator[int]:
    """The positive multiples of n up to 2 * to (at least n itself), the nearest to `to` first."""
    lower, upper = to // n * n, to // n * n + n
    while lower > 0 or upper <= max(2 * to, n):
        if upper <= max(2 * to, n) and (lower <= 0 or upper - to <= to - lower):
            yield upper
            upper += n
        else:
            yield lower
            lower -= n


def divisors(n: int) -> list[int]:
    """The divisors of n, in rising order."""
    small = [k for k in range(1, math.isqrt(n) + 1) if n % k == 0]
    return sorted({*small, *(n // k for k in small)})


def nearest(n: int, legal: list[int]) -> list[int]:
    """The legal numbers next to n: the greatest below it and the least above it, as far as they exist."""
    return [*[k for k in legal if k <= n][-1:], *[k for k in legal if k > n][:1]]
