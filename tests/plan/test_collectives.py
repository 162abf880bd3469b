"""What travels between the devices in a step: read from the compiled program on 8 virtual devices (docs/devices.md).

Every method, by hand: python -m benchmarks.collectives
"""

import dataclasses

import pytest

from benchmarks import collectives
from contrastive_jax.methods import METHODS
from contrastive_jax.plan import hlo, traffic
from tests import train_steps


@pytest.mark.parametrize('streamed', [True, False])
def test_keys_are_shuffled_and_no_batch_travels(streamed: bool) -> None:
    """MoCo v2: the bytes are those of the formulas, and a gather of images or logits would not be."""
    config = collectives.with_batch(train_steps.load_small('mocov2:tiny'))
    step = collectives.read(config, streamed)
    assert collectives.differences(step) == []
    assert ('all-to-all' in {x.kind for x in step.collectives}) == streamed
    batch = step.run.batch_size * step.run.image_size**2 * 3
    assert all(x.bytes <= batch / 2 for x in step.collectives if x.shape.startswith(('u8', '(u8')))

    for shape in ('u8[64,8,8,3]', f'f32[64,{config.method.queue_size}]'):
        size = sum(x.bytes for x in hlo.arrays(shape))
        for kind in ('all-gather', 'all-to-all', 'all-reduce', 'reduce-scatter'):
            large = traffic.Collective(kind, size, 1, collectives.DEVICES, shape, '')
            more = dataclasses.replace(step, collectives=(*step.collectives, large))
            assert len(collectives.differences(more)) == 1, 'it would be found'


def test_every_method_and_every_config_has_a_formula() -> None:
    assert set(collectives.CONFIGS) == set(train_steps.CONFIGS)
    assert set(collectives.GATHERED) == {method.__name__ for method in METHODS.values()}
