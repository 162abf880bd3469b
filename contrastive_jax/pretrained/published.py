"""Reads the encoder of a published checkpoint, in one of the formats of `forms`."""

import contextlib
import dataclasses
import re
import types
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from contrastive_jax.augment.policy import MAX_CHANNELS
from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import (
    architecture,
    files,
    hugging_face,
    pixels,
    relatives,
)
from contrastive_jax.pretrained.assemble import arrays_by_path, assemble, few
from contrastive_jax.pretrained.dialects import DIALECTS
from contrastive_jax.pretrained.discover import dialect_of, discover, pair, section_of, sections
from contrastive_jax.pretrained.encoder import Encoder, Say
from contrastive_jax.pretrained.forms import FORMS, IN_WORDS, Form, Place
from contrastive_jax.pretrained.stand_ins import kind
from contrastive_jax.pretrained.whole_models import unfold
from contrastive_jax.rules import did_you_mean

MAX_NAMES = 10**6  # in a checkpoint


def load(
    path: Path,
    source: files.Source,
    weights: str | None = None,
    form: str = '',
    encoder: str | Mapping[str, Any] = '',
    drop: tuple[str, ...] = (),
    normalization: str = '',
    say: Say = lambda _: None,
    *,
    section: str = '',
    prefix: str = '',
    fields: Mapping[str, Any] = types.MappingProxyType({}),
    assume: Say = lambda _: None,
) -> Encoder:
    """Reads the encoder of a published checkpoint.

    Every name must map to the encoder, match a pattern of the format for what is skipped, or match `drop`.

    Args:
      path: the file, for messages.
      source: the opened file.
      weights: 'online' or 'target'; None: the one that the authors evaluate.
      form: a key of FORMS; '': the first format that the file has.
      encoder: the section `encoder` of a config, or a text for `parse_encoder`; '': detected from names and shapes. The
        format adds fields that weights do not determine, such as the padding.
      drop: patterns of names, prefix included, that are skipped as well.
      normalization: a key of `pixels.NORMALIZATIONS`; '': that of the format.
      say: is called with what was detected and what is skipped, line by line.
      section: for a file of another project: the section of the state dict, such as 'model_state_dict'; '': searched.
      prefix: for a file of another project: the prefix of the encoder's names, such as 'backbone.'; '': searched.
      fields: fields of the encoder that weights do not tell, on top of what was detected, such as {'stem_padding': 2}.
      assume: is called with the input normalization, if it was assumed only because nothing is known of the file.

    Raises:
      UserError: no format fits, the network is not in the file, or names are unknown, missing, or of another shape.
    """
    if normalization and normalization not in pixels.NORMALIZATIONS:
        meant = did_you_mean(normalization, pixels.NORMALIZATIONS)
        raise UserError(f'pixels {normalization!r} is unknown{meant} -> choose from {", ".join(pixels.NORMALIZATIONS)}')
    content, chosen, beside = unfold(source.content), form, hugging_face.config_beside(path)
    if not encoder and (
        what := relatives.by_architecture({**beside, **content} if isinstance(content, dict) else content, path.name)
    ):
        raise UserError(
            f'{path} is of another network: {what} -> {relatives.SUPPORTED} are supported; if its weights are of a '
            'plain one all the same, name it, such as encoder=resnet50'
        )
    if section or prefix or form == 'other':
        if form not in ('', 'other'):
            raise UserError(f'form {form} has its own sections and names -> leave out section and prefix, or form')
        form, network = 'other', weights or 'online'
        section, prefix, dialect_name, both = _discover(content, section, prefix, path, weights)
    else:
        form, network, section, prefix, dialect_name, both = _find(content, form, weights, path)
    about, dialect = FORMS[form], DIALECTS[dialect_name]
    if weights == 'target' and (not about.target or (form == 'other' and not both)):
        raise UserError(f"{path} has the format {form}, which holds one network -> choose weights 'online'")
    place, other = about.network(network)
    other = None if form == 'other' and not both else other
    named = f', of {dialect_name}' if dialect_name.startswith('transformers') else ''
    where = f'{f", section {section!r}" if section else ""}{f", names {prefix}*" if prefix else ""}'
    say(f'format: {IN_WORDS[form]} (form={form}){where}{named}')
    if other:
        also = f'; the file also contains the {other.called}' if both or _match(content, about, other) else ''
        say(f'network: {place.called} (weights={network}){also}')
    held = _held(content, section, about)
    kept, skipped, unknown = _sort(held, prefix, about, other, drop, dialect.unused)
    if unknown and not chosen and form == 'simsiam':  # any trainer may call its network `module.encoder`
        about = FORMS['other']
        kept, skipped, unknown = _sort(held, prefix, about, None, drop, dialect.unused)
    if unknown:
        raise UserError(
            f'{path} contains names that {form} checkpoints do not have: {few(unknown)} -> skip them with '
            f'drop={unknown[0]}, or choose another form'
        )
    for what, keys in skipped.items():
        if keys:
            say(f'skipped, {what}: {few(keys)}')
    if section and (around := [str(key) for key in content if key != section.split('/')[0]]):
        say(f'beside the weights, not read: {few(around)}')
    if source.inert:
        say(f'objects in the file, none of which was created: {few(list(source.inert))}')
    state = {}
    for name in kept:
        try:
            state[name] = source.array(held[prefix + name])
        except UserError as error:
            raise UserError(f'{path} cannot be read at {prefix}{name}: {error}') from error
    try:
        state = about.rename(state if about is not FORMS['other'] else dialect.rename(state))
        if what := relatives.by_arrays({name: x.shape for name, x in state.items()}):
            raise UserError(f'it is of another network, with {what} -> {relatives.SUPPORTED} are supported')
        given = parse_encoder(encoder) if isinstance(encoder, str) and encoder else encoder
        described = given or hugging_face.vit_fields(beside, dialect_name) or _describe(state, about)
        config = {**about.fields, **dialect.fields, **described, **fields}
        arrays, image_size = arrays_by_path(config, state)
        channels = 3 if about.halves else architecture.channels(state)  # CMC's halves take one and two of Lab
        if channels > MAX_CHANNELS:
            raise UserError(f'it takes {channels} channels -> encoders of at most {MAX_CHANNELS} are supported')
        by_default = not normalization and (form in ('plain', 'other') or channels != 3)
        normalization = normalization or ('unit' if channels != 3 else '')
        how = pixels.normalization(normalization, channels) if normalization else {}
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    policy = dataclasses.replace(about.policy, **how)
    found = assemble(config, arrays, image_size, str(path), policy)
    found = dataclasses.replace(found, source=f'{path}, {place.called}') if other else found
    say(f'encoder: {config}, {found.num_parameters:,} parameters')
    say(f'assumed, because weights do not tell: {architecture.assumptions(found.module)}')
    line = f'input: {pixels.describe(policy)}'
    if by_default:
        default, *others = dict.fromkeys((normalization or 'imagenet', *pixels.fitting(channels)))
        remedy = f'give pixels={default} if it is right, {" or ".join(others)}, or load the run that it is from'
        assume(f'{line}, the default: {path.name} does not record it -> {remedy}')
    else:
        say(line)
    return found


def _find(content: Any, form: str, weights: str | None, path: Path) -> tuple[str, str, str, str, str, bool]:
    """The first form that the file has; in it the network, 'online' or 'target', and the values of `_discover`."""
    if form and form not in FORMS:
        raise UserError(f'form {form!r} is unknown{did_you_mean(form, FORMS)} -> choose from {", ".join(FORMS)}')
    for name in [form] if form else FORMS:
        about = FORMS[name]
        # Without a choice: the network that the authors evaluate or, if the file does not contain it, the other one.
        other = 'online' if about.default == 'target' else 'target'
        for network in (weights,) if weights else (about.default, other):
            if found := _match(content, about, about.network(network)[0]):
                return name, network, *found, 'torch', False
    if not form and (places := discover(content)) and (weights != 'online' or pair(places)):
        return 'other', weights or 'online', *_discover(content, '', '', path, weights)
    held = (name for _, held in sections(content) for name in held if isinstance(name, str))
    if not form and not weights and (what := relatives.family(held)):
        raise UserError(f'{path} is of another network, {what} -> {relatives.SUPPORTED} are supported')
    keys = [str(key) for key in content] if isinstance(content, dict) else [kind(content)]
    wanted = f'is not a {form} checkpoint' if form else 'is in no known checkpoint format'
    network = f' with weights {weights!r}' if weights else ''
    parts = content.values() if isinstance(content, dict) else ()
    inside = [str(key) for part in parts if isinstance(part, dict) for key in part]
    raise UserError(
        f'{path} {wanted}{network} (it contains {few(keys)}{f"; in them {few(inside)}" if inside else ""}) -> '
        f'choose another form: {", ".join(FORMS)}'
    )


def _discover(content: Any, section: str, prefix: str, path: Path, weights: str | None) -> tuple[str, str, str, bool]:
    """The only encoder under the names of `dialects`, or the trained one of it and its moving average.

    Returns:
      The section, the prefix, the dialect, and whether the file has both the trained network and its moving average.

    Raises:
      UserError: there is none, or more than one.
    """
    places = discover(content, section, prefix)
    if len(places) == 1:
        return *places[0], dialect_of(content, places[0]), False
    if two := pair(places):
        chosen = two[weights or 'online']
        return *chosen, dialect_of(content, chosen), True
    if places:
        listed = few([str(place) for place in places])
        raise UserError(f'{path} contains {len(places)} encoders ({listed}) -> choose one with prefix, or with section')
    asked = f'section {section!r}' if section else ''
    asked += f'{" and " if asked else ""}prefix {prefix!r}' if prefix else ''
    others = few([str(place) for place in discover(content)]) if discover(content) else 'none'
    raise UserError(
        f'{path} has no encoder with {asked} (encoders in it: {others}) -> choose another section or prefix'
    )


def _match(content: Any, about: Form, place: Place) -> tuple[str, str] | None:
    """The section and the prefix of the names of an encoder at this place; None if the file has no such names."""
    for section in place.sections:
        held = _held(content, section, about)
        if not all(isinstance(key, str) for key in held):
            continue
        for prefix in place.prefixes:
            stems, heads = (
                any(fnmatchcase(key, prefix + pattern) for key in held for pattern in patterns)
                for patterns in (about.stems, about.heads)
            )
            if stems and (heads or not about.head_required):
                return section, prefix
    return None


def _held(content: Any, section: str, about: Form) -> dict[Any, Any]:
    """The names in a section, with what each holds; {} if the file has no such section."""
    if about is FORMS['other']:
        return section_of(content, section)
    held = content.get(section) if section and isinstance(content, dict) else content
    if not isinstance(held, dict):
        return {}
    return _flat(_flat(held)) if about.nested else held


def _flat(tree: Mapping[Any, Any]) -> dict[Any, Any]:
    """One level less: {'a': {'b': x}} -> {'a/b': x}; {} if there are more names than networks have."""
    # A pickle of a few bytes can refer to the same large dict many times.
    if sum(len(held) for held in tree.values() if isinstance(held, dict)) > MAX_NAMES:
        return {}
    flat = {}
    for name, held in tree.items():
        flat.update({f'{name}/{key}': x for key, x in held.items()} if isinstance(held, dict) else {name: held})
    return flat


def _sort(
    held: Mapping[Any, Any],
    prefix: str,
    about: Form,
    other: Place | None,
    drop: tuple[str, ...],
    unused: tuple[str, ...],
) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Sorts names: those of the encoder, without prefix; those that are skipped, by reason; and unknown ones."""
    kept: list[str] = []
    unknown: list[str] = []
    skipped: dict[str, list[str]] = {'as asked': [], 'head': [], 'not of the encoder': []}
    beside = about.beside + (other.names if other else ())
    for key in map(str, held):
        name = key.removeprefix(prefix)
        inside = key.startswith(prefix)
        if _matches(key, drop):
            skipped['as asked'].append(key)
        elif _matches(key, beside):
            skipped['not of the encoder'].append(key)
        elif inside and _matches(name, about.heads):
            skipped['head'].append(key)
        elif not inside and about is FORMS['other']:
            skipped['not of the encoder'].append(key)
        elif not inside:
            unknown.append(key)
        elif not _matches(name, about.unused + unused):
            kept.append(name)
    return kept, skipped, unknown


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _describe(state: Mapping[str, np.ndarray], about: Form) -> dict[str, Any]:
    """The section `encoder` that the arrays belong to."""
    if not about.halves:
        return architecture.describe(state, about.heads_of)
    half = {name.removeprefix('l_to_ab.'): x for name, x in state.items() if name.startswith('l_to_ab.')}
    config = architecture.describe(half, '')
    return {**config, 'name': f'split_{config["name"]}'}


def parse_encoder(text: str) -> dict[str, Any]:
    """'vit_small,num_heads=6' -> {'name': 'vit_small', 'num_heads': 6}; a list is written 3x4x6x3.

    Raises:
      UserError: the text is not of that form.
    """
    name, *fields = text.split(',')
    config: dict[str, Any] = {'name': name}
    for field in fields:
        if not (match := re.fullmatch(r'(\w+)=([\w.+-]+)', field)):
            raise UserError(f'encoder {text!r}: {field!r} is not FIELD=VALUE -> e.g. vit_small,num_heads=6')
        config[match[1]] = _value(match[2])
    return config


def _value(text: str) -> Any:
    if re.fullmatch(r'\d+(x\d+)+', text):
        return [int(n) for n in text.split('x')]
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text
