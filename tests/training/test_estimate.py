"""The time of a training on a CPU: counted operations against published ones, and the line that says it."""

import pytest

from contrastive_jax.training.build import build_run
from contrastive_jax.training.estimate import Estimate, estimate, sentence
from tests import train_steps


def test_operations_are_the_published_ones() -> None:
    """torchvision's table: 1.81 billion multiply-adds for a ResNet-18 and an image of 224 pixels.

    XLA leaves out those of the padding, about 7 %.
    """
    config = train_steps.load('mocov2:r18')
    config.batch_size, config.method.queue_size, config.steps = 32, 32, 1000
    found = estimate(build_run(config, 1000), cores=2)
    forward = found.step_operations / 32 / (3 * 2 + 2)  # two views forward and backward, and both once more
    assert forward == pytest.approx(2 * 1.81e9, rel=0.1)
    assert found.total_s == pytest.approx(1000 * found.step_operations / (2 * 20e9))


def test_only_a_long_training_is_named() -> None:
    run = build_run(train_steps.load('mocov2:r18'), 1000)
    assert sentence(Estimate(1e9, 0.1, 500), run, 2) == ''
    line = sentence(Estimate(1e12, 20, 36_000), run, 2)
    assert '10:00:00' in line and 'views of 64 instead of 224 px, about 12 times' in line
