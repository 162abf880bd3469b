"""Reads the golden arrays: reference inputs and outputs of the authors' own code, with their settings.

The folder is `tests/golden/`, or the one that the environment variable CONTRASTIVE_JAX_GOLDEN names. Tests take every
shape and setting from `settings.json`, so another folder of the same form is checked by the same tests.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

FOLDER = Path(os.environ.get('CONTRASTIVE_JAX_GOLDEN') or Path(__file__).with_name('golden'))


class Case(NamedTuple):
    """One case of one file: its fields, and its arrays by full key or by the name within the case."""

    file: str
    prefix: str
    fields: dict[str, Any]
    tolerances: dict[str, float]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return load(self.file)

    def __getitem__(self, name: str) -> np.ndarray:
        """The array `prefix.name`, in float64 where it is stored as (exact) float16."""
        return widen(self.arrays[f'{self.prefix}.{name}' if self.prefix else name])

    def key(self, full_key: str) -> np.ndarray:
        return widen(self.arrays[full_key])

    def tree(self, full_prefix: str) -> dict[str, np.ndarray]:
        """All arrays below `full_prefix.`, by the rest of their key."""
        start = full_prefix + '.'
        return {key[len(start) :]: widen(x) for key, x in self.arrays.items() if key.startswith(start)}

    def below(self, name: str) -> dict[str, np.ndarray]:
        """All arrays below `name.` within the case."""
        return self.tree(f'{self.prefix}.{name}' if self.prefix else name)


def widen(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) if x.dtype == np.float16 else x


@functools.cache
def load(file: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / file, allow_pickle=False) as arrays:
        return dict(arrays)


@functools.cache
def settings() -> dict[str, Any]:
    return json.loads((FOLDER / 'settings.json').read_text())


def cases(kind: str, *types: str, file: str = '') -> list[Any]:
    """pytest parameters: every case of the files of `kind`, of the given case types (all without), in file order."""
    found = [
        Case(name, prefix, fields, {**entry['tolerance'], **fields.get('tolerance', {})})
        for name, entry in settings().items()
        if entry['kind'] == kind and name.startswith(file) and (FOLDER / name).exists()
        for prefix, fields in entry['cases'].items()
        if not types or fields['type'] in types
    ]
    return [pytest.param(case, id=f'{Path(case.file).stem}:{case.prefix or "-"}') for case in found]


def first(kind: str, type_: str) -> Case:
    """The first case of a type, for a test file that is about one network; without such a case the file is skipped."""
    found = cases(kind, type_)
    if not found:
        pytest.skip(f'the golden set has no case of {kind}, {type_}', allow_module_level=True)
    return found[0].values[0]


def or_chance(tolerance: float, deviation: float, *draws: int) -> float:
    """The tolerance of a statistic, but at least four standard errors of the difference of two runs of draws."""
    return max(tolerance, 4 * deviation * sum(1 / n for n in draws) ** 0.5)


def assert_close(actual: Any, expected: Any, tolerance: float, what: str = '') -> None:
    """The golden README's rule: max|a - b| / max(max|b|, 0.01) <= tolerance; integers are exact."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f'{what}: shape {actual.shape}, expected {expected.shape}'
    if np.issubdtype(expected.dtype, np.integer):
        np.testing.assert_array_equal(actual, expected, err_msg=what)
        return
    error = np.max(np.abs(actual - expected), initial=0.0) / max(np.max(np.abs(expected), initial=0.0), 0.01)
    assert error <= tolerance, f'{what}: error {error:.2e}, allowed {tolerance:.0e}'
