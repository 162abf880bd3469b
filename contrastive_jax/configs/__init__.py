"""The recipes as a package: `from contrastive_jax.configs import mocov2`.

The files lie in `configs/` at the top of the repository, and setup.py puts them into a wheel as this package. This file
is for a checkout and is not in the wheel: it makes Python import the same files from there, whether the checkout is the
current folder, is on PYTHONPATH or is installed with `pip install -e`. (A symbolic link would do the same, but some
copies of a checkout, and checkouts on Windows, lose it.)
"""

from pathlib import Path

__path__ = [str(Path(__file__).parents[2] / 'configs')]
