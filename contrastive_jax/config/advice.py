"""Warnings about a legal config that does not fit the data: sizes and lengths that leave little to learn from."""

import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from contrastive_jax.config.build import build_policy
from contrastive_jax.config.choose import SMALLEST_BATCH
from contrastive_jax.config.length import total_steps
from contrastive_jax.data.facts import DataFacts
from contrastive_jax.errors import Problem

MOST_ENLARGED = 2.0  # times that the shorter side of a stored image may be enlarged
FEWEST_STEPS = 5  # steps of an epoch
LONGEST_START = 0.5  # part of the training that a warm-up or a freeze may take


def advice(config: ConfigDict, facts: DataFacts) -> list[Problem]:
    """Finds what is legal in a config and will train badly on this data.

    Args:
      config: a config that `check.check` and `check.check_examples` have found right.
      facts: facts about the training images.

    Returns:
      One line for each finding, with the numbers, the field and a remedy. Empty if there is none.
    """
    per_epoch = facts.images // config.batch_size
    total = total_steps(config, per_epoch)
    found = [*_dictionaries(config, facts.images), *_lengths(config, per_epoch, total), *_images(config, facts)]
    if per_epoch < FEWEST_STEPS:
        most, rest = facts.images // FEWEST_STEPS, facts.images - per_epoch * config.batch_size
        found.append(
            Problem(
                f'an epoch has {per_epoch} {"step" if per_epoch == 1 else "steps"}: batch_size {config.batch_size} for '
                f'{facts.images:,} images' + (f', and {rest:,} of them are left out' if rest else ''),
                field='batch_size',
                remedy=f'use at most {most}' if most >= SMALLEST_BATCH else 'use more images',
            )
        )
    return found


def _dictionaries(c: ConfigDict, n: int) -> Iterator[Problem]:
    """Memories with more rows, and clusters with more centers, than there are images."""
    m, role = c.method, 'neighbor' if c.method.name == 'nnclr' else 'negative'
    for name, few in (
        ('queue_size', max(n // 4 // c.batch_size, 1) * c.batch_size),
        ('num_negatives', max(n // 10, 1)),
    ):
        size = m.get(name, 0)
        if isinstance(size, int) and size > n:
            yield Problem(
                f'method.{name} {size:,} is larger than the {n:,} training images: each image is its own {role} '
                f'about {_times(size / n)} times',
                field=f'method.{name}',
                remedy=f'use {few} or fewer',
            )
    for name in ('num_prototypes', 'output_dim') if m.name == 'dino' else ('num_prototypes',):
        given = m.get(name, 0)
        most = max(given, default=0) if isinstance(given, tuple | list) else given
        if isinstance(most, int) and most > n:
            yield Problem(
                f'method.{name} {most:,} is more than the {n:,} training images, so most clusters stay empty',
                field=f'method.{name}',
                remedy=f'use {max(n // 16, 2)} or fewer',
            )


def _lengths(c: ConfigDict, per_epoch: int, total: int) -> Iterator[Problem]:
    """Phases at the start that take most of the training, and changes that come after its end."""
    o, s, m, epochs = c.optimizer, c.schedule, c.method, total / per_epoch
    frozen = (o.freeze_steps or math.ceil(o.freeze_epochs * per_epoch)) if o.freeze_first else 0
    field = 'optimizer.freeze_steps' if o.freeze_steps else 'optimizer.freeze_epochs'
    if frozen > LONGEST_START * total:
        yield Problem(
            f'{field}: {", ".join(o.freeze_first)} {"are" if len(o.freeze_first) > 1 else "is"} frozen for {frozen:,} '
            f'steps ({frozen / per_epoch:.3g} epochs) of a training of {total:,}',
            field=field,
            remedy=f'use an epoch, {per_epoch:,} steps, or train longer',
        )
    warmup = round(s.warmup_epochs * per_epoch) if 'warmup' in s.name else 0
    if warmup > LONGEST_START * total:
        yield Problem(
            f'schedule.warmup_epochs: the learning rate rises for {warmup:,} steps of a training of {total:,}',
            field='schedule.warmup_epochs',
            remedy=f'use {0.1 * epochs:.3g} or train longer',
        )
    starts = {'method.teacher_warmup_epochs': m.get('teacher_warmup_epochs', 0)}
    if m.get('queue_size', 0):
        starts['method.queue_from_epoch'] = m.get('queue_from_epoch', 0)
    for name, start in starts.items():
        if start and start >= epochs:
            yield Problem(
                f'{name} {start} is not reached by a training of {epochs:.3g} epochs',
                field=name,
                remedy='use fewer epochs for it, or train longer',
            )
    if s.name == 'step' and s.milestones and min(s.milestones) >= epochs:
        yield Problem(
            f'schedule.milestones begin at epoch {min(s.milestones):g}, after a training of {epochs:.3g} epochs: the '
            'learning rate never decays',
            field='schedule.milestones',
            remedy=f'e.g. {0.6 * epochs:.3g} and {0.8 * epochs:.3g}',
        )


def _images(c: ConfigDict, facts: DataFacts) -> Iterator[Problem]:
    """Images that are enlarged, blurs without effect, and gray images where a method compares lightness with color."""
    size = c.data.image_size
    if facts.side and size > MOST_ENLARGED * facts.side:
        yield Problem(
            f'data.image_size {size}: an image of {facts.side} px is enlarged {_times(size / facts.side)} times',
            field='data.image_size',
            remedy=f'use about {facts.side}',
        )
    policy = build_policy(c)
    for field, blurred, pixels in (
        ('augment.blur', any(policy.blur), size),
        ('augment.local_blur', policy.local_crops and policy.local_blur, policy.local_size),
    ):
        if blurred and policy.blur_radius(pixels) == 0:
            yield Problem(
                f'{field}: views of {pixels} px are not blurred, as the kernel of augment.style {policy.style!r} is a '
                'tenth of an image wide, here one pixel',
                field=field,
                remedy="use augment.style 'pil', or views of 20 px or more",
            )
    if facts.gray and c.augment.color_space != 'rgb':
        yield Problem(
            f'augment.color_space {c.augment.color_space!r} separates lightness from color, and the images are gray: '
            f'there are no colors that {c.method.name} can learn from',
            field='augment.color_space',
            remedy='train with another recipe',
        )


def _times(x: float) -> str:
    """A factor in words: the integer part from 10 on, else with one decimal."""
    return f'{int(x)}' if x >= 10 else f'{x:.1f}'.removesuffix('.0')
