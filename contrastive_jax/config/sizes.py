"""Limits of sizes of networks: far beyond them, even the shapes of the variables take hours."""

from ml_collections import ConfigDict

from contrastive_jax.errors import Problem

MOST_LAYERS, MOST_WIDTH = 1_000, 1 << 24
LAYERS = ('depth', 'num_layers', 'stage_sizes')


def check_sizes(c: ConfigDict) -> list[Problem]:
    """Finds fields of encoder and heads that are absurdly large.

    Args:
      c: a config with the sections `encoder`, `projector` and `predictor`; fields of another type are left alone.

    Returns:
      One problem for each field.
    """
    found = []
    for section in ('encoder', 'projector', 'predictor'):
        for name, given in (c.get(section) or ConfigDict()).items():
            sizes = [x for x in (given if isinstance(given, tuple | list) else (given,)) if type(x) is int]
            size, most = sum(sizes), MOST_LAYERS if name in LAYERS else MOST_WIDTH
            if name == 'stage_sizes' and min(sizes, default=0) < 1:
                message, remedy = (
                    f'{section}.{name} {given!r} is out of range',
                    'give the blocks of each stage, e.g. (2, 2)',
                )
                found.append(Problem(message, field=f'{section}.{name}', remedy=remedy, value=(2, 2)))
            if size > most:
                what = 'layers' if name in LAYERS else 'values'
                message = f'{section}.{name} {given!r} is out of range'
                remedy = f'use at most {most:,} {what}'
                found.append(Problem(message, field=f'{section}.{name}', remedy=remedy, value=None))
    return found
