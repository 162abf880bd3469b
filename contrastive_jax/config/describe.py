"""All fields of a config as text: name, default, type, legal values and meaning, from their declarations."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Mapping

from contrastive_jax.augment.patches import Patches
from contrastive_jax.config.fields import SECTIONS, Training
from contrastive_jax.methods import METHODS
from contrastive_jax.models.cpc import CPCEncoder
from contrastive_jax.models.heads import MLP
from contrastive_jax.models.resnet import ResNet
from contrastive_jax.models.vit import VisionTransformer
from contrastive_jax.rules import Declared, declared_fields, name_of

WIDTH = 100


def describe_fields() -> str:
    """The fields of every section of a pre-training config, for help texts and documentation."""
    parts = ['Fields of a config: --config.FIELD=VALUE']
    parts += [describe_section(path, section) for path, section in {'': Training, **SECTIONS}.items()]
    parts.append(describe_section('augment.patches', Patches, 'of CPC, relative position and jigsaw'))
    for section, what in ((ResNet, 'resnet*'), (VisionTransformer, 'vit_*, dino_*'), (CPCEncoder, 'cpc_*')):
        parts.append(describe_section('encoder', section, f'name: {what}'))
    parts.append(describe_section('projector', MLP, 'and predictor'))
    parts += [describe_section('method', method, f'name: {name}') for name, method in METHODS.items()]
    return '\n\n'.join(parts)


def describe_sections(sections: Mapping[str, type]) -> str:
    """The fields of the sections of one config.

    Args:
      sections: the class that declares each section, by its path; '' is the top level.
    """
    parts = ['Fields of this config: --config.FIELD=VALUE', *(describe_section(*item) for item in sections.items())]
    return '\n\n'.join(parts)


def describe_section(path: str, section: type, note: str = '') -> str:
    """The fields that a class declares for one section, a few lines each.

    Args:
      path: the section, such as 'optimizer'; '' for the top level.
      section: the dataclass, or the Linen module.
      note: what else to say in the title.
    """
    meanings = meanings_of(section)
    title = f'{path or "(top level)"}{f" ({note})" if note else ""}'
    lines = [title]
    for name, declared in declared_fields(section).items():
        full = f'{path}.{name}' if path else name
        text = f'{full} = {_default(declared)} ({_legal(declared)}): {meanings.get(name, "")}'
        lines += textwrap.wrap(text, WIDTH, initial_indent='  ', subsequent_indent='      ')
    return '\n'.join(lines)


def meanings_of(section: type) -> Mapping[str, str]:
    """The meaning of each field: that of its declaration, or the entry of the docstring under `Attributes:`."""
    declared = {name: field.legal.meaning for name, field in declared_fields(section).items() if field.legal.meaning}
    return {**_attributes(inspect.getdoc(section) or ''), **declared}


def _attributes(doc: str) -> dict[str, str]:
    """Names and texts of the section `Attributes:` of a docstring; 'a, b: text' is for both."""
    _, _, text = doc.partition('Attributes:\n')
    found: dict[str, str] = {}
    for entry in re.split(r'\n(?=  \w)', '\n' + re.split(r'\n(?=\S)', text)[0]):
        names, colon, meaning = ' '.join(entry.split()).partition(': ')
        if colon:
            found |= dict.fromkeys(names.split(', '), meaning)
    return found


def _default(declared: Declared) -> str:
    return 'to be given' if declared.default is dataclasses.MISSING else repr(declared.default)


def _legal(declared: Declared) -> str:
    """The type and the legal values in words."""
    if declared.legal.choices:
        return f'{name_of(declared.kind)}: {" | ".join(declared.legal.choices)}'
    return ', '.join(filter(None, (name_of(declared.kind), declared.legal.range)))
