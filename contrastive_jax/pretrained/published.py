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
from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import architecture, files, haiku_names, names, simclr_names, weights
from contrastive_jax.pretrained.weights import Weights

MAX_NAMES = 10**6

Say = Callable[[str], None]
Rename = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


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
      stems: patterns of names, after the prefix, one of which every such encoder has.
      nested: the section is a tree of three levels.
      unused: names, after the prefix, of numbers that an encoder does not need.
      rename: makes torchvision's names and layouts of the encoder's.
      fields: of the section `encoder`, which its weights do not tell.
      policy: how images reach it.
    """

    sections: tuple[str, ...]
    prefixes: tuple[str, ...]
    heads: tuple[str, ...] = ('fc.*',)
    beside: tuple[str, ...] = ()
    heads_of: str = ''
    certain: bool = False
    halves: bool = False
    stems: tuple[str, ...] = ('conv1.weight', 'patch_embed.proj.weight', 'patch_embed.proj.0.weight')
    nested: bool = False
    unused: tuple[str, ...] = (f'*.{names.COUNTER}',)
    rename: Rename = dict
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    policy: Policy = weights.IMAGENET


def byol(network: str, other: str) -> Form:
    """The form of BYOL's checkpoints: {'experiment_state': a named tuple of Haiku's trees for each of two networks}."""
    return Form(
        ('experiment_state',),
        (f'{network}_',),
        tuple(f'{kind}/{head}/*' for kind in ('params', 'state') for head in ('projector', 'predictor', 'classifier')),
        (f'{other}_params/*', f'{other}_state/*', 'opt_state*'),
        stems=('params/*/initial_conv/w', 'params/*/initial_conv_1/w'),
        nested=True,
        unused=('state/*/hidden', 'state/*/counter'),
        rename=haiku_names.from_haiku,
        fields={'padding': 'same', 'bn_unbiased': False},
        policy=Policy(style='byol', interpolation='bicubic'),
    )


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
    # Another form of CMC's, in YCbCr, does not say so.
    'cmc': Form(
        ('model',), ('encoder.module.', 'module.encoder.'), ('l_to_ab.fc.*', 'ab_to_l.fc.*'), halves=True,
        stems=('l_to_ab.conv1.weight',), policy=Policy(**weights.SEEN['lab']),
    ),
    'byol': byol('online', 'target'),
    'byol-target': byol('target', 'online'),
    'simclr': Form(  # v1 and v2; as pre-trained, with a linear classifier, or fine-tuned
        ('',), ('base_model/',), (), ('head_*', 'global_step', '*/Momentum', '*LARSOptimizer*'),
        stems=('conv2d/kernel',), rename=simclr_names.from_simclr, fields={'padding': 'simclr', 'bn_unbiased': False},
        policy=Policy(style='simclr', interpolation='bicubic', **weights.SEEN['unit']),
    ),
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
    pixels: str = '',
    say: Say = lambda _: None,
) -> Weights:
    """The encoder of a checkpoint. Every name in it finds its place, or is known to be left behind.

    Args:
      path: of the file, for messages.
      source: the opened file.
      form: a key of FORMS; '': the first that fits.
      encoder: the section `encoder`; None: told by names and shapes. The form adds what it knows of padding and norms.
      drop: patterns of names, prefix included, that are left behind as well.
      pixels: that it sees, a key of `weights.SEEN`; '': those of the form.
      say: is told what was found, and what is left behind.

    Raises:
      UserError: names that have no place, are missing, or of another shape; no form fits.
    """
    if pixels and pixels not in weights.SEEN:
        raise UserError(f'--pixels={pixels} is unknown -> choose from {", ".join(weights.SEEN)}')
    form, section, prefix = _find(source.content, form, path)
    about = FORMS[form]
    say(f'form: {form}{f", section {section!r}" if section else ""}{f", names {prefix}*" if prefix else ""}')
    held = _held(source.content, section, about)
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
        state = about.rename(state)
        config = {**about.fields, **(encoder or _describe(state, about))}
        arrays, size = _place(config, state)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    policy = dataclasses.replace(about.policy, **weights.SEEN[pixels]) if pixels else about.policy
    made = dataclasses.replace(weights.make(config, arrays, size, str(path)), policy=policy)
    sees = weights.normalisation(policy)
    if form == 'plain' and not pixels:
        sees += ', as --pixels does not say otherwise'
    say(f'encoder: {config}, {weights.count(made):,} parameters; it is taken to see {sees}')
    return made


def _find(content: Any, form: str, path: Path) -> tuple[str, str, str]:
    """Form, section and prefix of the first that fits."""
    if form and form not in FORMS:
        raise UserError(f'--form={form} is unknown -> choose from {", ".join(FORMS)}')
    for name in [form] if form else FORMS:
        about = FORMS[name]
        for section in about.sections:
            held = _held(content, section, about)
            if not all(isinstance(key, str) for key in held):
                continue
            for prefix in about.prefixes:
                stems, heads = (
                    any(fnmatchcase(key, prefix + pattern) for key in held for pattern in patterns)
                    for patterns in (about.stems, about.heads)
                )
                if stems and (heads or not about.certain):
                    return name, section, prefix
    keys = [str(key) for key in content] if isinstance(content, dict) else [type(content).__name__]
    wanted = f'a {form} checkpoint' if form else 'any checkpoint that is known'
    parts = content.values() if isinstance(content, dict) else ()
    inside = [str(key) for part in parts if isinstance(part, dict) for key in part]
    raise UserError(
        f'{path} is not of the form of {wanted} (it holds {weights.few(keys)}'
        f'{f"; in them {weights.few(inside)}" if inside else ""}) -> name another --form: {", ".join(FORMS)}'
    )


def _held(content: Any, section: str, about: Form) -> dict[Any, Any]:
    """The names in a section, and what they stand for; {} where there are none."""
    held = content.get(section) if section and isinstance(content, dict) else content
    if not isinstance(held, dict):
        return {}
    return _flat(_flat(held)) if about.nested else held


def _flat(tree: Mapping[Any, Any]) -> dict[Any, Any]:
    """One level less: {'a': {'b': x}} -> {'a/b': x}; {} if that are more names than networks have."""
    if sum(len(held) for held in tree.values() if isinstance(held, dict)) > MAX_NAMES:
        return {}  # a few bytes of a pickle, which name the same again and again
    flat = {}
    for name, held in tree.items():
        flat.update({f'{name}/{key}': x for key, x in held.items()} if isinstance(held, dict) else {name: held})
    return flat


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
        elif not _matches(name, about.unused):
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
