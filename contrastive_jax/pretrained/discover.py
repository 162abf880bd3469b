"""Finds an encoder under torchvision's or timm's names in a file that no known project writes.

Trainers save the same names below a prefix of their own (`module.`, `_orig_mod.`, `backbone.`, `model.encoder.`) and in
a section of their own (`state_dict`, `model_state_dict`, `encoder`). A place is an encoder if below one prefix there
are the names of its stem and of its first block.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

STEMS = {  # the first layer -> a name that an encoder with it has in its first block
    'conv1.weight': 'layer1.0.conv1.weight',
    'patch_embed.proj.weight': 'blocks.0.norm1.weight',
    'patch_embed.proj.0.weight': 'blocks.0.norm1.weight',
}
MAX_DEPTH = 3  # of sections within sections
# Sections with a moving average of the weights, which timm prefers where a file has both.
AVERAGES = ('state_dict_ema', 'model_ema')


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
        for where, held in _sections(content)
        if not section or where == section
        for start in _prefixes(held)
        if not wanted or start == wanted
    ]
    averaged = {place.prefix for place in found if place.section in AVERAGES}
    return [place for place in found if place.section in AVERAGES or place.prefix not in averaged or section]


def section_of(content: Any, section: str) -> dict[Any, Any]:
    """The dict at a section of a `Found`."""
    for key in section.split('/') if section else ():
        content = content[key]
    return dict(content)


def _sections(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every dict in a file, with the keys that lead to it."""
    if not isinstance(content, Mapping) or len(path) > MAX_DEPTH:
        return
    yield '/'.join(path), content
    for key, inner in content.items():
        if isinstance(key, str) and '/' not in key:
            yield from _sections(inner, (*path, key))


def _prefixes(held: Mapping[Any, Any]) -> list[str]:
    """The prefixes of a state dict below which an encoder lies."""
    names = {name for name in held if isinstance(name, str)}
    starts = [
        name.removesuffix(stem)
        for name in names
        for stem, block in STEMS.items()
        if name.endswith(stem) and f'{name.removesuffix(stem)}{block}' in names
    ]
    return sorted({start for start in starts if not start or start.endswith('.')})
