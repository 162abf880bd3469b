"""Finds the encoders in a file that no known project writes, by the names of their arrays.

Trainers save the names of `dialects` below a prefix of their own (`module.`, `_orig_mod.`, `backbone.`) and in a
section of their own (`state_dict`, `model_state_dict`, `encoder`). A place is an encoder if below one prefix there are
the names of its stem and of its first block.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from contrastive_jax.pretrained.dialects import DIALECTS

MAX_DEPTH = 6  # of sections within sections; VISSL has four
# Sections with a moving average of the weights, which timm prefers where a file has both.
AVERAGES = ('state_dict_ema', 'model_ema')
# The prefixes of a moving average: momentum_backbone (solo-learn), backbone_momentum (lightly), encoder_k, target_net
AVERAGE_PREFIX = re.compile(r'(^|[._])(momentum|target|ema|k|key)([._]|$)')


class Found(NamedTuple):
    """A place in a file.

    Attributes:
      section: the keys that lead to the state dict, joined by '/'; '' is the top level.
      prefix: the prefix of the names of the encoder.
    """

    section: str
    prefix: str

    def __str__(self) -> str:
        return f'section={self.section or "(top)"} prefix={self.prefix or "(none)"}'


def discover(content: Any, section: str = '', prefix: str = '') -> list[Found]:
    """The encoders in a file.

    Args:
      content: the file, nested dicts.
      section: only this section; '': any.
      prefix: only this prefix, with or without the dot at its end; '': any.

    Returns:
      The places that have the names of an encoder, in the order of the file. Of the same names with and without a
      moving average, only the average is returned, as timm chooses.
    """
    wanted = f'{prefix.rstrip(".")}.' if prefix else ''
    found = [
        Found(where, start)
        for where, held in sections(content)
        if not section or where == section
        for start in _prefixes(held)
        if not wanted or start == wanted
    ]
    averaged = {place.prefix for place in found if place.section in AVERAGES}
    return [place for place in found if place.section in AVERAGES or place.prefix not in averaged or section]


def pair(places: list[Found]) -> dict[str, Found]:
    """The trained network and its moving average, {'online': ..., 'target': ...}, if these are the two places."""
    target = [place for place in places if AVERAGE_PREFIX.search(place.prefix)]
    online = [place for place in places if place not in target]
    return {'online': online[0], 'target': target[0]} if (len(online), len(target)) == (1, 1) else {}


def dialect_of(content: Any, place: Found) -> str:
    """The naming scheme of an encoder that `discover` found, a key of DIALECTS."""
    return _prefixes(section_of(content, place.section))[place.prefix]


def section_of(content: Any, section: str) -> dict[Any, Any]:
    """The dict at a section of a `Found`."""
    for key in section.split('/') if section else ():
        content = content[key]
    return dict(content)


def sections(content: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every dict in a file, with the keys that lead to it; a dict at several places is found once."""
    seen: set[int] = set()

    def below(inner: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
        if not isinstance(inner, Mapping) or len(path) > MAX_DEPTH or id(inner) in seen:
            return
        seen.add(id(inner))
        yield '/'.join(path), inner
        for key, value in inner.items():
            if isinstance(key, str) and '/' not in key:
                yield from below(value, (*path, key))

    return below(content, ())


def _prefixes(held: Mapping[Any, Any]) -> dict[str, str]:
    """The prefixes of a state dict below which an encoder lies, and its dialect."""
    names = [name for name in held if isinstance(name, str)]
    found: dict[str, str] = {}
    for dialect, about in DIALECTS.items():
        stems, blocks = (
            {match[1] for name in names if (match := re.fullmatch(rf'((?:.*\.)?)(?:{pattern})', name))}
            for pattern in (about.stem, about.block)
        )
        for start in stems & blocks:
            found.setdefault(start, dialect)
    return dict(sorted(found.items()))
