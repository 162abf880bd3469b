"""How long a training takes on a CPU, from the counted operations of its encoder: said before it begins."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax.config.choose_network import CPU_SIZE
from contrastive_jax.training.progress import duration
from contrastive_jax.training.run import Run

# Operations a second of one core, a rule of thumb: 10 to 40 were measured for convolutions on server CPUs.
CORE_OPERATIONS = 20e9
BACKWARD = 3  # a forward and a backward pass, in forward passes
SLOW_MINUTES = 10  # a shorter training needs no words


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Counted work.

    Attributes:
      step_operations: floating-point operations of a training step.
      step_s: seconds of a step at `CORE_OPERATIONS` a core.
      total_s: seconds of the whole training, without evaluations.
    """

    step_operations: float
    step_s: float
    total_s: float


def estimate(run: Run, cores: int) -> Estimate:
    """Counts the operations of a step: each view forward and backward, and the first views once more by a target.

    Args:
      run: what is constant in the run.
      cores: processor cores.
    """
    policy, encoder = run.policy, run.method.network.encoder
    sizes = policy.view_sizes(run.image_size)
    of_size = {size: _forward(encoder, run, size) for size in sorted(set(sizes))}
    image = BACKWARD * sum(of_size[size] for size in sizes) + sum(of_size[size] for size in sizes[:2])
    step = run.batch_size * image
    step_s = step / (CORE_OPERATIONS * cores)
    return Estimate(step, step_s, step_s * run.total_steps)


def sentence(found: Estimate, run: Run, cores: int) -> str:
    """The line about a long training; '' if it takes less than `SLOW_MINUTES`.

    Args:
      found: the estimate of the run.
      run: what is constant in the run.
      cores: processor cores.
    """
    if found.total_s < 60 * SLOW_MINUTES:
        return ''
    faster = ['fewer epochs']
    if run.image_size > CPU_SIZE:
        share = (run.image_size / CPU_SIZE) ** 2
        faster.insert(0, f'views of {CPU_SIZE} instead of {run.image_size} px, about {share:.0f} times')
    return (
        f'on a CPU of {cores} core{"s" if cores > 1 else ""}: a step of {found.step_operations:.2g} operations takes '
        f'about {found.step_s:.2g} s (rule: {CORE_OPERATIONS:.0e} a second and core), the {run.total_steps:,} steps '
        f'{duration(found.total_s)}; faster with {" or ".join(faster)}'
    )


def _forward(encoder: Any, run: Run, size: int) -> float:
    """Operations of the encoder for one image of a size, as XLA counts them before it compiles."""

    def apply(variables: Any, images: Any) -> Any:
        return encoder.apply(variables, run.policy.normalize(images, run.dtype), train=False)

    shape = (1, size, size, run.policy.channels)
    images, x = jax.ShapeDtypeStruct(shape, jnp.uint8), jax.ShapeDtypeStruct(shape, run.dtype)
    variables = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False), x)
    cost = jax.jit(apply).lower(variables, images).cost_analysis()
    return float((cost or {}).get('flops', 0.0))
