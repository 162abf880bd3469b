"""The names of splits, and which split of a data set a name means."""

import re
from collections.abc import Callable, Sequence

from contrastive_jax.errors import MissingSplitError, UserError
from contrastive_jax.rules import did_you_mean

# Kind of a split -> the names that people give it, in any case.
NAMES = {
    'train': ('train', 'training', 'trn'),
    'test': ('test', 'testing', 'tst'),
    'validation': ('validation', 'valid', 'val', 'dev', 'eval', 'evaluation', 'holdout'),
}
# What may follow the name of a split: 'training_set', 'test-images', 'ValData'.
_SUFFIX = re.compile(r'[ _.-]?(set|split|data|images|imgs)$')
EVALUATION = ('test', 'validation')  # kinds that replace each other, in this order


def split_kind(name: str) -> str | None:
    """'Valid', 'val_set' -> 'validation'; None for a name that is not the name of a split."""
    given = name.lower()
    forms = (given, _SUFFIX.sub('', given))
    return next((kind for kind, names in NAMES.items() if any(form in names for form in forms)), None)


def resolve_split(
    split: str, available: Sequence[str], where: str, is_labeled: Callable[[str], bool] = lambda _: True
) -> str:
    """The split in `available` that a requested name means.

    A split with this very name comes first, then one of the same kind. Evaluation splits replace each other: where
    there is no 'test', 'validation' is used, and a labeled split is preferred to an unlabeled one.

    Args:
      split: the requested split.
      available: the names of the splits that the data has.
      where: the data, for messages.
      is_labeled: whether a split in `available` has labels; it is only asked where several evaluation splits could be
        meant.

    Raises:
      UserError: `split` is neither available nor the name of a kind of split.
      MissingSplitError: the data has no evaluation split.
    """
    kind = split_kind(split)
    if kind is None or kind == 'train':
        same = [name for name in available if name == split] or [
            name for name in available if kind and split_kind(name) == kind
        ]
        if same:
            return same[0]
        known = list(dict.fromkeys([*available, 'train', 'test']))
        raise UserError(f'{where} has no split {split!r}{did_you_mean(split, known)} -> choose from {", ".join(known)}')
    kinds = [kind, *(other for other in EVALUATION if other != kind)]
    candidates = [name for name in available if name == split]
    candidates += [name for kind in kinds for name in available if split_kind(name) == kind and name not in candidates]
    if not candidates:
        raise MissingSplitError(
            f'{where} has no split {split!r}; its splits: {", ".join(available)} -> add one, or use other data to '
            'evaluate'
        )
    if len(candidates) == 1:
        return candidates[0]
    return next((name for name in candidates if is_labeled(name)), candidates[0])
