"""The fields of `Policy` that decide how images are prepared for an encoder, and those of published encoders."""

from typing import Any

from contrastive_jax.augment.policy import Policy
from contrastive_jax.errors import UserError

FIELDS = ('color_space', 'mean', 'std', 'style', 'interpolation')  # of `Policy`; its other fields are augmentation
IMAGENET = Policy()  # RGB in [0, 1], normalized with ImageNet's mean and std

# The input normalizations of published encoders, by the name that the argument `pixels` takes: the color space, the
# mean that is subtracted from each channel, and the standard deviation that the difference is divided by.
NORMALIZATIONS: dict[str, dict[str, Any]] = {
    'imagenet': {'color_space': 'rgb', 'mean': IMAGENET.mean, 'std': IMAGENET.std},
    'half': {'color_space': 'rgb', 'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)},  # [-1, 1]: timm's augreg ViTs
    'unit': {'color_space': 'rgb', 'mean': (0.0, 0.0, 0.0), 'std': (1.0, 1.0, 1.0)},  # [0, 1]: SimCLR
    'lab': {'color_space': 'lab', 'mean': (50.0, 6.025, -6.6895), 'std': (50.0, 92.208, 101.1675)},  # CMC
}


def normalization(name: str, channels: int) -> dict[str, Any]:
    """The fields of a normalization for a number of channels.

    Args:
      name: a key of NORMALIZATIONS.
      channels: the number of channels of the encoder.

    Raises:
      UserError: the normalization is of RGB, and the encoder takes another number of channels.
    """
    found = NORMALIZATIONS[name]
    if channels == 3:
        return found
    if _of_rgb(name):
        raise UserError(f'pixels {name!r} is of RGB, and the encoder takes {channels} channels -> choose unit or half')
    return {**found, 'mean': found['mean'][:1] * channels, 'std': found['std'][:1] * channels}


def fitting(channels: int) -> list[str]:
    """The keys of NORMALIZATIONS that an encoder of this number of channels can have."""
    return [name for name in NORMALIZATIONS if channels == 3 or not _of_rgb(name)]


def _of_rgb(name: str) -> bool:
    found = NORMALIZATIONS[name]
    return len({*found['mean']}) > 1 or found['color_space'] != 'rgb'  # its channels differ


def fields(policy: Policy) -> dict[str, Any]:
    """The values of FIELDS."""
    return {field: getattr(policy, field) for field in FIELDS}


def describe(policy: Policy) -> str:
    """The input normalization in words, for messages."""
    what = policy.color_space if policy.channels == 3 else f'{policy.channels} channels'
    return f'{what}, minus mean {policy.mean}, divided by std {policy.std}'
