"""DINO's loss against the authors' values and slow loops, on more devices, with extreme inputs; its use of memory."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from contrastive_jax.distributed import collectives
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.losses import dino
from contrastive_jax.losses.dino import targets, update_center
from contrastive_jax.methods.dino import teacher_temperature
from tests import goldens

G, V, B, O = 2, 5, 8, 7


@pytest.mark.parametrize('case', goldens.cases('dino_loss', 'train'))
@pytest.mark.parametrize('precision', ['float64', 'float32'])
def test_golden(case: goldens.Case, precision: str) -> None:
    """Loss and gradient of every rank, and the center, over epochs of a rising teacher temperature."""
    f, tolerance = case.fields, case.tolerances[precision]
    temperature = partial(
        teacher_temperature,
        start=f['warmup_teacher_temperature'],
        final=f['teacher_temperature'],
        warmup_epochs=f['warmup_teacher_temperature_epochs'],
    )

    @partial(jax.vmap, in_axes=(0, 0, None, None), axis_name='data')
    def step(student: Any, teacher: Any, center: Any, epoch: Any) -> Any:
        temperatures = {'student_temperature': f['student_temperature'], 'teacher_temperature': temperature(epoch)}
        loss, grad = jax.value_and_grad(dino)(student, teacher, center, **temperatures)
        return loss, grad, update_center(center, teacher, f['center_momentum'], 'data')

    with jax.enable_x64(precision == 'float64'):
        schedule = np.asarray([temperature(epoch) for epoch in range(f['epochs'])])
        goldens.assert_close(schedule, case['teacher_temp_schedule'], tolerance, 'schedule')
        center, run = jnp.full((f['output_dim'],), f['initial_center'], precision), jax.jit(step)
        for t in range(f['steps']):
            student, teacher = (jnp.asarray(case[name][t], precision) for name in ('student', 'teacher'))
            shape = (f['world_size'], -1, f['batch_size'], f['output_dim'])  # crop by crop
            student, teacher = student.reshape(shape), teacher.reshape(shape)
            assert (student.shape[1], teacher.shape[1]) == (f['num_crops'], f['num_global_crops'])
            loss, grad, centers = run(student, teacher, center, f['epoch'][t])
            center = centers[0]
            goldens.assert_close(loss, case['loss'][t], tolerance, f'loss {t}')
            goldens.assert_close(grad.reshape(case['grad_student'][t].shape), case['grad_student'][t], tolerance)
            goldens.assert_close(centers, np.broadcast_to(case['center'][t], centers.shape), tolerance, f'center {t}')


@pytest.fixture(scope='module')
def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(V, B, O)), rng.normal(size=(G, B, O)), rng.normal(size=O)


def slow_dino(student: np.ndarray, teacher: np.ndarray, center: np.ndarray) -> float:
    """Algorithm 1 of arXiv 2104.14294, pair by pair and example by example."""
    softmax = lambda x: np.exp(x) / np.exp(x).sum()  # noqa: E731
    terms = [
        -softmax((teacher[g, i] - center) / 0.07) @ np.log(softmax(student[v, i] / 0.1))
        for g in range(G)
        for v in range(V)
        for i in range(B)
        if g != v
    ]
    return float(np.mean(terms))


def test_equation(arrays):
    with jax.enable_x64(True):
        loss = jax.jit(partial(dino, teacher_temperature=0.07))(*arrays)
        np.testing.assert_allclose(loss, slow_dino(*arrays), rtol=1e-12)


def test_gradients(arrays):
    student, teacher, center = arrays
    with jax.enable_x64(True):
        loss = jax.jit(partial(dino, teacher_temperature=0.5))
        check_grads(lambda s: loss(s, teacher, center), (student,), 1, modes=['rev'])
        others = jax.grad(loss, argnums=(1, 2))(student, teacher, center)
        assert not any(np.any(g) for g in others)


def local(student, teacher, center, axis_name='data'):
    loss, grad = jax.value_and_grad(dino)(student, teacher, center, teacher_temperature=0.07)
    center = update_center(center, teacher, 0.9, axis_name)
    return collectives.pmean(loss, axis_name), grad / collectives.axis_size(axis_name), center


@pytest.fixture(scope='module')
def on_one_device(arrays):
    with jax.enable_x64(True):
        return jax.jit(partial(local, axis_name=None))(*arrays)


@pytest.mark.parametrize('n', [1, 2, 4, 8])
@pytest.mark.parametrize('how', ['shard_map', 'vmap'])
def test_same_on_more_devices(arrays, on_one_device, n: int, how: str):
    with jax.enable_x64(True):
        student, teacher, center = map(jnp.asarray, arrays)
        if how == 'shard_map':
            rows = P(None, 'data')
            mapped = jax.shard_map(
                local,
                mesh=find_devices(count=n).mesh,
                in_specs=(rows, rows, P()),
                out_specs=(P(), rows, P()),
                check_vma=False,
            )
            actual = jax.jit(mapped)(student, teacher, center)
        else:
            split = lambda x: x.reshape(len(x), n, -1, O)  # noqa: E731
            mapped = jax.vmap(local, in_axes=(1, 1, None), out_axes=(0, 1, 0), axis_name='data')
            loss, grad, centers = jax.jit(mapped)(split(student), split(teacher), center)
            actual = loss[0], grad.reshape(student.shape), centers[0]
        for a, b in zip(actual, on_one_device, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)


loss_and_gradient = jax.jit(jax.value_and_grad(dino))


@pytest.mark.parametrize('scale', [0.0, 1e4, 1e30])
def test_finite_at_extremes(arrays, scale: float):
    student, teacher, center = (jnp.asarray(x * scale, jnp.float32) for x in arrays)
    loss, grad = jax.value_and_grad(dino)(student, teacher, center, teacher_temperature=0.04)
    assert jnp.isfinite(loss) and jnp.isfinite(grad).all()
    np.testing.assert_allclose(targets(teacher, center, 0.04).sum(-1), 1.0, rtol=1e-5)


def test_the_minimum_is_the_entropy_of_the_teacher(arrays):
    _, teacher, center = arrays
    p = targets(jnp.asarray(np.stack([teacher[0]] * G)), center, 0.07)
    student = jnp.stack([0.1 * jnp.log(p[0])] * V)
    loss, grad = loss_and_gradient(student, jnp.stack([teacher[0]] * G), center, teacher_temperature=0.07)
    np.testing.assert_allclose(loss, -jnp.mean(jnp.sum(p * jnp.log(p), -1)), rtol=1e-5)
    np.testing.assert_allclose(grad, 0.0, atol=1e-6)


def test_half_precision_logits_give_a_float32_loss(arrays):
    student, teacher, center = (jnp.asarray(x, jnp.bfloat16) for x in arrays)
    loss, grad = loss_and_gradient(student, teacher, center, teacher_temperature=0.07)
    assert (loss.dtype, grad.dtype) == (jnp.float32, jnp.bfloat16)


def test_memory_of_the_paper_s_logits():
    """10 crops of 65536 logits: besides logits and gradient, less than one more copy of the logits is stored."""
    B, O = 4, 65536
    student, teacher = (jax.ShapeDtypeStruct((views, B, O), jnp.float32) for views in (10, 2))
    center = jax.ShapeDtypeStruct((O,), jnp.float32)
    step = jax.jit(partial(jax.value_and_grad(dino), teacher_temperature=0.04)).lower(student, teacher, center)
    assert step.compile().memory_analysis().temp_size_in_bytes < 0.75 * 10 * B * O * 4
