"""`import contrastive_jax`: what it gives, and what it does not load."""

import subprocess
import sys
from pathlib import Path

import pytest

import contrastive_jax
from contrastive_jax import load_encoder, losses, methods
from contrastive_jax.pretrained.load import load

REPOSITORY = Path(__file__).parents[1]


def test_names() -> None:
    assert contrastive_jax.load_encoder is load_encoder is load
    assert losses.info_nce and methods.METHODS
    assert {'__version__', 'load_encoder', 'losses', 'methods'} <= set(dir(contrastive_jax))
    with pytest.raises(AttributeError, match="module 'contrastive_jax' has no attribute 'loses'"):
        _ = contrastive_jax.loses  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ('code', 'absent'),
    [
        ('import contrastive_jax; dir(contrastive_jax); contrastive_jax.__version__', 'jax flax numpy tensorflow'),
        ('from contrastive_jax import losses; losses.info_nce', 'flax tensorflow orbax'),
        ('from contrastive_jax import load_encoder', 'tensorflow torch'),
        ('from contrastive_jax.data import digits; digits.load()', 'sklearn tensorflow torch'),
    ],
)
def test_what_is_not_loaded(code: str, absent: str) -> None:
    program = f'{code}\nimport sys\nprint([name for name in {absent.split()} if name in sys.modules])'
    done = subprocess.run([sys.executable, '-c', program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == '[]\n'
