"""Chooses what follows from the number of channels, and finds what is wrong with it once the data is known.

RGB keeps the recipe's mean and standard deviation; those of other channels are estimated. Operations that are defined
by RGB alone are dropped for other channels. Brightness and contrast stay, as do flip, crop, blur and solarization,
which inverts the values of each channel above half of the range.
"""

from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.config.plan import Plan, get, is_estimated
from contrastive_jax.data.channels import SAMPLED
from contrastive_jax.data.facts import DataFacts
from contrastive_jax.methods import method_or_none
from contrastive_jax.rules import Rules


def needs_estimate(config: ConfigDict, channels: int) -> bool:
    """Whether mean or standard deviation are to be estimated for data with so many channels.

    Args:
      config: a config whose fields have the right types.
      channels: the number of channels of the data.
    """
    free = config.get('auto', {}).get('fields', ())
    return any(
        is_estimated(config, name) or (name in free and channels != 3) for name in ('augment.mean', 'augment.std')
    )


def channels(plan: Plan) -> None:
    """Chooses the number of channels, their mean and standard deviation, and drops the operations of RGB."""
    c, data = plan.config, plan.data
    plan.set('data.channels', data.channels, 'as the data has')
    for name, found in (('augment.mean', data.mean), ('augment.std', data.std)):
        if found and (data.channels != 3 or is_estimated(c, name)):
            plan.set(name, found, f'estimated from {min(data.images, SAMPLED)} training images')
    if data.channels == 3:
        return
    why = f'saturation, hue and gray are those of RGB: dropped for {_count(data.channels)}'
    for field, value in of_rgb(c).items():
        plan.set(field, value, why)


def _count(channels: int) -> str:
    return f'{channels} channel' + ('s' if channels > 1 else '')


def of_rgb(c: ConfigDict) -> dict[str, Any]:
    """The fields whose operations need RGB, with the values that leave them out."""
    found: dict[str, Any] = {}
    for section in ('augment', 'augment.patches'):
        if (jitter := get(c, f'{section}.jitter')) and any(jitter[2:]):
            found[f'{section}.jitter'] = (*jitter[:2], 0.0, 0.0)
        for name in ('grayscale', 'color_drop'):
            if get(c, f'{section}.{name}'):
                found[f'{section}.{name}'] = 0.0
    return found


def check_channels(config: ConfigDict, data: DataFacts) -> list[str]:
    """Finds what does not fit the channels of the data, after everything was chosen.

    Args:
      config: a config without other problems.
      data: facts about the training images.

    Returns:
      As `check.check`.
    """
    rules, C = Rules(config), data.channels
    what = f'the images have {_count(C)}'
    rules.rule(
        config.data.get('channels', 3) == C,
        f'data.channels is {config.data.get("channels", 3)}, and {what}',
        field='data.channels',
        remedy=f'use {C}',
        value=C,
    )
    for name in ('mean', 'std'):
        given = config.augment[name]
        rules.rule(
            len(given) == C,
            f'augment.{name} has {len(given)} values, and {what}',
            field=f'augment.{name}',
            remedy=f'give {C} values, or () for an estimate from training images',
        )
    if C == 3:
        return rules.found
    method = method_or_none(config.method.name)
    if config.augment.color_space != 'rgb' or (method is not None and method.split_encoder):
        rules.add(
            f'{config.method.name} separates lightness from color, which needs RGB, and {what}',
            field='method.name',
            remedy='train with another recipe, such as mocov2',
        )
    for field, value in of_rgb(config).items():
        given = get(config, field)
        rules.add(f'{field} {given!r} is for RGB, and {what}', field=field, remedy=f'use {value!r}', value=value)
    return rules.found
