"""The learning rates of the recipes at some epochs are those of the papers."""

import pytest

from contrastive_jax.training.build import build_run
from tests import train_steps


@pytest.mark.parametrize(
    ('name', 'examples', 'points'),
    [
        # (epoch, learning rate), at the start of the epoch
        ('instdis', 1_281_167, [(0, 0.03), (119, 0.03), (120, 0.003), (160, 0.0003)]),
        ('invaspread', 50_000, [(0, 0.03), (119, 0.03), (120, 0.003), (160, 0.0015), (200, 0.0003), (300, 0.0003)]),
        ('cmc', 1_281_167, [(119, 0.03), (120, 0.003), (160, 0.0003), (200, 0.00003)]),
        ('mocov1', 1_281_167, [(0, 0.03), (119, 0.03), (120, 0.003), (160, 0.0003), (199, 0.0003)]),
        ('mocov2', 1_281_167, [(0, 0.03), (100, 0.015), (50, 0.03 * (0.5 + 0.125**0.5))]),
        ('mocov3_r50', 1_281_167, [(0, 0.0), (5, 4.8), (10, 9.6), (55, 4.8)]),
        ('mocov3_r50:300', 1_281_167, [(10, 4.8), (155, 2.4)]),
        ('swav', 1_281_167, [(0, 0.3), (10, 4.8), (55, (4.8 + 0.0048) / 2)]),
        ('swav:small_batch', 1_281_167, [(0, 0.6), (100, (0.6 + 0.0006) / 2)]),
        ('deepcluster', 1_281_167, [(0, 0.3), (10, 4.8), (205, (4.8 + 0.0048) / 2)]),
        ('mocov3_vit', 1_281_167, [(0, 0.0), (20, 1.2e-3), (40, 2.4e-3), (170, 1.2e-3)]),
        ('byol', 1_281_167, [(0, 0.0), (5, 1.6), (10, 3.2), (505, 1.6)]),
        ('byol:40', 1_281_167, [(10, 7.2), (25, 3.6)]),
        ('dino', 1_281_167, [(0, 0.0), (10, 1e-3), (55, 0.5 * (1e-3 + 1e-6)), (100, 1e-6)]),
        ('dino:base', 1_281_167, [(10, 2e-3), (400, 8e-6)]),
        ('dino:resnet50', 1_281_167, [(10, 0.06)]),
        ('simsiam', 1_281_167, [(0, 0.1), (50, 0.05), (25, 0.1 * (0.5 + 0.125**0.5))]),
        ('simclr', 1_281_167, [(0, 0.0), (5, 2.4), (10, 4.8), (55, 2.4)]),
        ('barlow_twins', 1_281_167, [(0, 0.0), (5, 0.8), (10, 1.6), (505, (1.6 + 0.0016) / 2), (1000, 0.0016)]),
        ('vicreg', 1_281_167, [(10, 1.6), (1000, 0.0016)]),
        ('vicreg:100', 1_281_167, [(10, 0.6), (100, 0.0006)]),
        ('nnclr', 1_281_167, [(10, 4.8), (505, 2.4)]),
        ('simclrv2', 1_281_167, [(20, 3.2), (40, 6.4), (420, 3.2)]),
    ],
)
def test_learning_rates_of_the_papers(name: str, examples: int, points: list[tuple[int, float]]) -> None:
    run = build_run(train_steps.load(name), examples)
    for epoch, rate in points:
        assert float(run.learning_rate(epoch * run.steps_per_epoch)) == pytest.approx(rate, rel=1e-5, abs=1e-9)
    assert run.steps_per_epoch == examples // run.batch_size
    if 'mocov3' in name:
        assert float(run.learning_rate(run.total_steps)) == pytest.approx(0, abs=1e-9)
