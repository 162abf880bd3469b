"""The scripts of examples/ run, and compute what they say."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.methods import MethodState, MoCo

EXAMPLES = Path(__file__).parents[1] / 'examples'


def run(monkeypatch: pytest.MonkeyPatch, name: str, *args: str) -> dict[str, Any]:
    """Runs a script as a command does, and returns what it defines."""
    monkeypatch.setattr(sys, 'argv', [name, *args])
    return runpy.run_path(str(EXAMPLES / name), run_name='__main__')


def test_own_loop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It trains, and its loss, keys and BN statistics are those of our MoCo on the same batch."""
    script = run(monkeypatch, 'own_loop.py', '--steps=2')
    printed = capsys.readouterr().out
    assert 'step    2  loss' in printed and 'kNN accuracy' in printed

    state = script['init'](jax.random.key(2), script['optax'].sgd(0.1))
    away = jax.tree.map(lambda x: x + 0.01, state.params)  # so that the two encoders differ
    state = state._replace(params_k=away, queue={**state.queue, 'slot': jnp.int32(3)})
    x_q, x_k = np.random.default_rng(0).normal(size=(2, script['B'], 8, 8, 3)).astype(np.float32)
    shuffle = jax.random.permutation(jax.random.key(3), script['B'])

    moco = MoCo(script['network'], queue_size=script['K'], momentum=1.0, temperature=script['T'])
    given = MethodState(state.params_k, {'online': state.stats, 'target': state.stats_k}, {'queue': state.queue})
    batch = {'views': (x_q, x_k), 'shuffle': shuffle, 'shuffled': (x_q[shuffle], x_k[shuffle])}

    @jax.jit
    def both(params):
        loss, (stats, stats_k, k) = script['loss_fn'](params, state, x_q, x_k, shuffle)
        expected, (new, _) = moco.loss(params, given, batch, rng=jax.random.key(4), progress=0.0)
        queue = script['memory'].enqueue(state.queue, k)
        return (loss, {'online': stats, 'target': stats_k}, queue), (expected, new.batch_stats, new.memory['queue'])

    found, expected = both(state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
    assert found[2]['slot'] == 4 and np.abs(found[2]['keys'][3] - state.queue['keys'][3]).max() > 0.1


def test_one_loss_in_flax(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The loss falls below a guess; its network is not ours."""
    script = run(monkeypatch, 'one_loss_in_flax.py', '--steps=2')
    assert 'step    2  loss' in capsys.readouterr().out
    losses = script['main'](steps=12)
    assert losses[-1] < losses[0] - 0.5
    imported = re.findall(r'^(?:from|import) (contrastive_jax\S*)', Path(script['__file__']).read_text(), re.MULTILINE)
    assert imported == ['contrastive_jax.losses']
