"""The forms in which checkpoints are published: where in the file the encoder is, and what lies beside it."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from contrastive_jax.augment.policy import Policy
from contrastive_jax.convert import architecture, files, names, weights
from contrastive_jax.convert.weights import Weights
from contrastive_jax.errors import UserError

# Pixels of CMC, whose other form of checkpoint, in YCbCr, does not say so. All others: RGB, by ImageNet's mean and std.
LAB = Policy(color_space='lab', mean=(50.0, 6.025, -6.6895), std=(50.0, 92.208, 101.1675))

STEMS = ('conv1.weight', 'patch_embed.proj.weight', 'patch_embed.proj.0.weight', 'l_to_ab.conv1.weight')

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Form:
    """One form of checkpoint. Patterns are those of fnmatch.

    Attributes:
      sections: where in the file the state dict may be; '': at the top.
      prefixes: that the encoder's names may have.
      heads: names, after the prefix, that follow the encoder and are left behind.
      beside: names of other networks and of queues, which are left behind too.
      heads_of: whose ViTs these are, see `architecture.describe`.
      certain: taken for this form only if there is such a head.
      halves: two encoders side by side (CMC).
    """

    sections: tuple[str, ...]
    prefixes: tuple[str, ...]
    heads: tuple[str, ...] = ('fc.*',)
    beside: tuple[str, ...] = ()
    heads_of: str = ''
    certain: bool = False
    halves: bool = False


# In the order in which a file is compared with them.
FORMS: dict[str, Form] = {
    'moco': Form(  # v1 and v2: the encoder of the queries
        ('state_dict',), ('module.encoder_q.',), beside=('module.encoder_k.*', 'module.queue', 'module.queue_ptr')
    ),
    'moco-key': Form(
        ('state_dict',), ('module.encoder_k.',), beside=('module.encoder_q.*', 'module.queue', 'module.queue_ptr')
    ),
    'mocov3': Form(
        ('state_dict',), ('module.base_encoder.',), ('fc.*', 'head.*'),
        ('module.momentum_encoder.*', 'module.predictor.*'), 'vit',
    ),
    'mocov3-momentum': Form(
        ('state_dict',), ('module.momentum_encoder.',), ('fc.*', 'head.*'),
        ('module.base_encoder.*', 'module.predictor.*'), 'vit',
    ),
    'simsiam': Form(('state_dict',), ('module.encoder.',), beside=('module.predictor.*',)),
    'dino': Form(
        ('teacher',), ('backbone.', 'module.backbone.'), (), ('head.*', 'module.head.*'), 'dino'
    ),
    'dino-student': Form(
        ('student',), ('module.backbone.', 'backbone.'), (), ('head.*', 'module.head.*'), 'dino'
    ),
    'cmc': Form(('model',), ('encoder.module.', 'module.encoder.'), ('l_to_ab.fc.*', 'ab_to_l.fc.*'), halves=True),
    # SwAV and DeepCluster-v2
    'swav': Form(('', 'state_dict'), ('module.',), ('projection_head.*', 'prototypes*'), certain=True),
    'instdis': Form(('state_dict',), ('module.',)),
    # torchvision and timm, and DINO's files of a backbone alone
    'plain': Form(('', 'state_dict', 'model'), ('',), ('fc.*', 'head.*')),
}  # fmt: skip


def load(
    path: Path,
    source: files.Source,
    form: str = '',
    encoder: Mapping[str, Any] | None = None,
    drop: tuple[str, ...] = (),
    say: Say = lambda _: None,
) -> Weights:
    """The encoder of a checkpoint. Every name in it finds its place, or is known to be left behind.

    Args:
      path: of the file, for messages.
      source: the opened file.
      form: a key of FORMS; '': the first that fits.
      encoder: the section `encoder`; None: told by names and shapes.
      drop: patterns of names, prefix included, that are left behind as well.
      say: is told what was found, and what is left behind.

    Raises:
      UserError: names that have no place, are missing, or of another shape; no form fits.
    """
    form, section, prefix = _find(source.content, form, path)
    about = FORMS[form]
    say(f'form: {form}{f", section {section!r}" if section else ""}{f", names {prefix}*" if prefix else ""}')
    held = source.content[section] if section else source.content
    kept, left, strange = _sort(held, prefix, about, drop)
    if strange:
        raise UserError(
            f'{path} holds names that {form} checkpoints do not have: {weights.few(strange)} -> leave them behind with '
            f'--drop={strange[0]}, or name another --form'
        )
    for what, keys in left.items():
        if keys:
            say(f'left behind, {what}: {weights.few(keys)}')
    state = {}
    for name in kept:
        try:
            state[name] = source.array(held[prefix + name])
        except UserError as error:
            raise UserError(f'{path} cannot be read at {prefix}{name}: {error}') from error
    try:
        config = dict(encoder) if encoder else _describe(state, about)
        arrays, size = _place(config, state)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    made = weights.make(config, arrays, size, str(path))
    if about.halves:
        made = dataclasses.replace(made, policy=LAB)
    sees = weights.normalisation(made.policy)
    say(f'encoder: {config}, {weights.count(made):,} parameters; it is taken to see {sees}')
    return made


def _find(content: Any, form: str, path: Path) -> tuple[str, str, str]:
    """Form, section and prefix of the first that fits."""
    if form and form not in FORMS:
        raise UserError(f'--form={form} is unknown -> choose from {", ".join(FORMS)}')
    for name in [form] if form else FORMS:
        about = FORMS[name]
        for section in about.sections:
            held = content.get(section) if section and isinstance(content, dict) else content
            if not isinstance(held, dict) or not all(isinstance(key, str) for key in held):
                continue
            for prefix in about.prefixes:
                heads = any(fnmatchcase(key, prefix + head) for key in held for head in about.heads)
                if any(prefix + stem in held for stem in STEMS) and (heads or not about.certain):
                    return name, section, prefix
    keys = [str(key) for key in content] if isinstance(content, dict) else [type(content).__name__]
    wanted = f'a {form} checkpoint' if form else 'any checkpoint that is known'
    parts = content.values() if isinstance(content, dict) else ()
    inside = [str(key) for part in parts if isinstance(part, dict) for key in part]
    raise UserError(
        f'{path} is not of the form of {wanted} (it holds {weights.few(keys)}'
        f'{f"; in them {weights.few(inside)}" if inside else ""}) -> name another --form: {", ".join(FORMS)}'
    )


def _sort(
    held: Mapping[Any, Any], prefix: str, about: Form, drop: tuple[str, ...]
) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """The encoder's names without prefix, those left behind by reason, and those that nobody knows."""
    kept: list[str] = []
    strange: list[str] = []
    left: dict[str, list[str]] = {'as asked': [], 'the head': [], 'beside the encoder': []}
    for key in held:
        name = key.removeprefix(prefix)
        inside = key.startswith(prefix)
        if _matches(key, drop):
            left['as asked'].append(key)
        elif _matches(key, about.beside):
            left['beside the encoder'].append(key)
        elif inside and _matches(name, about.heads):
            left['the head'].append(key)
        elif not inside:
            strange.append(key)
        elif not name.endswith(f'.{names.COUNTER}'):
            kept.append(name)
    return kept, left, strange


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _describe(state: Mapping[str, np.ndarray], about: Form) -> dict[str, Any]:
    if not about.halves:
        return architecture.describe(state, about.heads_of)
    half = {name.removeprefix('l_to_ab.'): x for name, x in state.items() if name.startswith('l_to_ab.')}
    config = architecture.describe(half, '')
    return {**config, 'name': f'split_{config["name"]}'}


def _place(config: dict[str, Any], state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """Arrays by our paths, and the size of the images. Names without a place keep their own."""
    size = architecture.image_size(config, state)
    ours = {theirs: path for path, theirs in names.torch_names(weights.shapes(config, size)).items()}
    state = dict(state)
    if architecture.POSITION in state and architecture.POSITION not in ours:  # fixed, and not a parameter here
        wrong = architecture.check_position(state.pop(architecture.POSITION))
        if wrong:
            raise UserError(f'{wrong}, which {config["name"]} computes -> it is another ViT: --encoder=dino_small, ...')
    return {ours.get(name, name): names.from_torch(ours.get(name, name), x) for name, x in state.items()}, size


def parse_encoder(text: str) -> dict[str, Any]:
    """'vit_small,num_heads=6' -> {'name': 'vit_small', 'num_heads': 6}; a list is 3x4x6x3.

    Raises:
      UserError: it is not of that form.
    """
    name, *fields = text.split(',')
    config: dict[str, Any] = {'name': name}
    for field in fields:
        if not (match := re.fullmatch(r'(\w+)=([\w.+-]+)', field)):
            raise UserError(f'--encoder={text}: {field!r} is not FIELD=VALUE -> e.g. vit_small,num_heads=6')
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
