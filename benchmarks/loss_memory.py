"""The memory and the time of the contrastive losses with their gradient: all logits stored, and in blocks.

python -m benchmarks.loss_memory [--windows 5]

Memory is the temporaries that the compiler counts; nothing of these sizes runs. Times are CPU seconds of interleaved
calls at batch 4,096.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import Spread
from contrastive_jax.losses import info_nce, info_nce_in_batch, log_sum_exp, nt_xent

DIM = 128
FORMS: tuple[log_sum_exp.Form, ...] = ('dense', 'blocks')
SIZES: dict[Callable[..., Any], list[tuple[int, int]]] = {  # batch, and size of the dictionary (0: none)
    info_nce: [(256, 65536), (4096, 65536), (16384, 65536), (65536, 1048576)],
    info_nce_in_batch: [(4096, 0), (16384, 0), (65536, 0)],
    nt_xent: [(512, 0), (4096, 0), (16384, 0), (65536, 0)],
}
TIMED: list[tuple[Callable[..., Any], int, int]] = [
    (info_nce, 4096, 65536),
    (info_nce_in_batch, 4096, 0),
    (nt_xent, 4096, 0),
]


@contextmanager
def in_form(form: log_sum_exp.Form) -> Iterator[None]:
    """Losses that are traced inside use this form, whatever their size."""
    chosen = log_sum_exp.choose_form
    log_sum_exp.choose_form = lambda *_: form
    try:
        yield
    finally:
        log_sum_exp.choose_form = chosen


def compiled(loss: Callable[..., Any], batch: int, keys: int, form: log_sum_exp.Form) -> Any:
    """The loss and its gradient with respect to queries and keys, compiled for [batch, DIM] and [keys, DIM]."""
    shapes = [jax.ShapeDtypeStruct((n, DIM), jnp.float32) for n in (batch, batch, keys) if n]
    # A function of its own for each form: jax keeps what it has traced.
    with in_form(form):
        f = jax.value_and_grad(lambda *args: loss(*args, temperature=0.2), argnums=(0, 1))
        return jax.jit(f).lower(*shapes).compile()


def print_memory() -> None:
    print(f'{"loss":18} {"batch":>6} {"keys":>8} {"dense, MiB":>11} {"blocks, MiB":>12} {"ratio":>6}  chosen')
    for loss, sizes in SIZES.items():
        for batch, keys in sizes:
            temporaries = partial(compiled, loss, batch, keys)
            dense, blocks = (temporaries(form).memory_analysis().temp_size_in_bytes / 2**20 for form in FORMS)
            queries = batch * (2 if loss is nt_xent else 1)
            chosen = log_sum_exp.choose_form(queries, keys or queries, DIM, 1)
            name = loss.__name__
            print(f'{name:18} {batch:6} {keys:8} {dense:11.0f} {blocks:12.0f} {dense / blocks:6.1f}  {chosen}')


def print_times(windows: int) -> None:
    print(f'\nCPU seconds, median [minimum, maximum] of {windows} interleaved calls, {jax.default_backend()}')
    rng = np.random.default_rng(0)
    for loss, batch, keys in TIMED:
        calls = [compiled(loss, batch, keys, form) for form in FORMS]
        args = [jnp.asarray(rng.standard_normal((n, DIM), np.float32)) for n in (batch, batch, keys) if n]
        seconds = np.array([[_cpu_seconds(call, args) for call in calls] for _ in range(windows + 1)])[1:]
        dense, blocks, ratio = map(Spread.of, (*seconds.T, seconds[:, 1] / seconds[:, 0]))
        parts = [f'{name} {x.median:.2f} [{x.low:.2f}, {x.high:.2f}]' for name, x in
                 (('dense', dense), ('blocks', blocks), ('blocks / dense', ratio))]  # fmt: skip
        print(f'{loss.__name__:18} {batch:6} {keys:8}  {"; ".join(parts)}', flush=True)


def _cpu_seconds(call: Any, args: list[Any]) -> float:
    start = time.process_time()
    jax.block_until_ready(call(*args))
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument('--windows', type=int, default=5, help='timed calls of each form')
    windows = parser.parse_args().windows
    print_memory()
    print_times(windows)


if __name__ == '__main__':
    main()
