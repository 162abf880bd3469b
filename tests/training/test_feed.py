"""The program of a feed depends on the config, and not on the seed."""

import dataclasses

import jax
import numpy as np

from contrastive_jax.configs import simsiam
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.plan.programs import program
from contrastive_jax.training.build import build_run


def test_runs_that_differ_in_the_seed_alone_share_a_program() -> None:
    run, devices = build_run(simsiam.get_config('tiny'), 64), find_devices('jit', 1)
    resident = jax.ShapeDtypeStruct((64, 8, 8, 3), np.uint8)

    def text(images: jax.ShapeDtypeStruct | None, seed: int) -> str:
        call, arguments = program(dataclasses.replace(run, seed=seed), devices, images)
        return call.lower(*arguments).as_text()

    for images in (resident, None):
        assert text(images, 0) == text(images, 1)
