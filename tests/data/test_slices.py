"""Slices of splits: what TFDS reads is read, and everything else is one line."""

import types

import pytest

from contrastive_jax.data.slices import parse_slices, rows
from contrastive_jax.errors import UserError


@pytest.mark.parametrize(
    ('given', 'parts'),
    [
        ('train', [('train', '')]),
        ('train[:10%]', [('train', '[:10%]')]),
        ('train[10%:]', [('train', '[10%:]')]),
        ('train[99.5%:]', [('train', '[99.5%:]')]),
        ('train[:-10%]', [('train', '[:-10%]')]),
        ('train[-10%:]', [('train', '[-10%:]')]),
        ('train[50%:-10%]', [('train', '[50%:-10%]')]),
        ('train[:-1]', [('train', '[:-1]')]),
        ('train[1_000:2000]', [('train', '[1_000:2000]')]),
        ('train[100:-100]', [('train', '[100:-100]')]),
        ('train[:4shard]', [('train', '[:4shard]')]),
        ('train[3shard]', [('train', '[3shard]')]),
        ('train[:5%]+validation', [('train', '[:5%]'), ('validation', '')]),
        ('train[:5%] + train[95%:]', [('train', '[:5%]'), ('train', '[95%:]')]),
    ],
)
def test_slices(given: str, parts: list[tuple[str, str]]) -> None:
    assert parse_slices(given, 'split') == parts


@pytest.mark.parametrize(
    ('given', 'what'),
    [
        *((text, 'is not a split or a slice of one') for text in ('train[', 'train]', 'train[:5]]', '[:5]', '', '+')),
        *((text, 'is not a split or a slice of one') for text in ('train+', 'train[:5]x', 'train[:5][:6]', '+train')),
        *(
            (f'train[{text}]', 'is not START:END')
            for text in ('', ':', ':x', 'x:', 'a:b', '1:2:3', '::2', '--1:', ':5%%')
        ),
        *(
            (f'train[{text}]', 'is not START:END')
            for text in ('1e3:', ':nan', ':.5', ':5.%', 'None:', ':5 percent', '%:')
        ),
        ('train[5]', 'is one position'),
        ('train[5%]', 'is one position'),
        ('train[10%:500]', 'mixes numbers of images and percentages'),
        ('train[1shard:50%]', 'mixes percentages and shards'),
        ('train[:1.5]', 'has a fraction'),
        ('train[:101%]', 'goes beyond 100 %'),
        ('train[-101%:]', 'goes beyond 100 %'),
        *((f'train[{text}]', 'is empty') for text in ('10%:5%', '10%:10%', ':0%', '100%:', '50%:-50%', '60%:-50%')),
        *((f'train[{text}]', 'is empty') for text in ('5:5', '6:5', ':0', '-5:-5', '-5:-6', ':-100%', '2shard:1shard')),
        ('validation+train[5:4]', 'is empty'),
    ],
)
def test_what_is_no_slice(given: str, what: str) -> None:
    with pytest.raises(UserError) as error:
        parse_slices(given, 'split')
    message = str(error.value)
    assert message.startswith(f'split {given!r}: ') and what in message and ' -> e.g. ' in message
    assert '\n' not in message and error.value.exit_code == 2


ROWS = [
    ('train', 0, 50), ('train[:90%]', 0, 45), ('train[90%:]', 45, 50), ('train[-10%:]', 45, 50), ('train[10:]', 10, 50),
    ('train[:-1]', 0, 49), ('train[33%:67%]', 16, 34), ('train[1%:]', 0, 50), ('train[3%:]', 2, 50),
]  # fmt: skip
SHARDS = [('train[5:500]', 5, 50), ('train[1shard]', 20, 40), ('train[-1shard]', 40, 50), ('train[:2shard]', 0, 40)]


@pytest.mark.parametrize(('given', 'start', 'end'), [*ROWS, *SHARDS])
def test_rows(given: str, start: int, end: int) -> None:
    (part,) = parse_slices(given, 'split')
    assert rows(part, [20, 20, 10]) == (start, end)


def test_rows_are_those_of_tfds() -> None:
    tfds = pytest.importorskip('tensorflow_datasets')
    info = types.SimpleNamespace(num_examples=50, shard_lengths=[20, 20, 10])
    for given, start, end in (*ROWS, *SHARDS[1:]):
        (theirs,) = tfds.core.ReadInstruction.from_spec(given).to_absolute({'train': info})
        assert (theirs.from_ or 0, 50 if theirs.to is None else theirs.to) == (start, end)
