"""The formats of published checkpoints: where the encoder is in the file, and what else the file contains."""

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
from contrastive_jax.pretrained import architecture, files, haiku_names, names, pixels, simclr_names
from contrastive_jax.pretrained.assemble import assemble, few, shapes
from contrastive_jax.pretrained.discover import discover, section_of
from contrastive_jax.pretrained.encoder import Encoder, Say
from contrastive_jax.rules import did_you_mean

MAX_NAMES = 10**6  # in a checkpoint

Rename = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a checkpoint has one of its networks. Patterns are those of fnmatch.

    Attributes:
      sections: the keys under which the state dict may be; '' is the top level of the file.
      prefixes: the prefixes that the names of the encoder's arrays may have.
      names: patterns of all names of this network in a section that it shares with the other network.
      called: what the authors call the network; '' if there is one only.
    """

    sections: tuple[str, ...]
    prefixes: tuple[str, ...]
    names: tuple[str, ...] = ()
    called: str = ''


@dataclasses.dataclass(frozen=True)
class Form:
    """A format of checkpoints. Patterns are those of fnmatch.

    Attributes:
      online: the place of the trained network.
      target: the place of its moving average; None if the checkpoint has none.
      default: which of them the authors evaluate, 'online' or 'target'.
      heads: patterns of names, after the prefix, of the layers that follow the encoder; they are skipped.
      beside: patterns of names of queues, predictors and other values that are not of the encoder; they are skipped.
      heads_of: whose ViTs these are, see `architecture.describe`.
      head_required: whether a file has this format only if it contains a head.
      halves: whether there are two encoders side by side (CMC).
      stems: patterns of names, after the prefix; every such encoder has a name that matches one of them.
      nested: whether the section is a tree of three levels.
      unused: patterns of names, after the prefix, of arrays that an encoder does not need.
      rename: maps the encoder's names and array layouts to torchvision's.
      fields: fields of the section `encoder` that the weights do not determine.
      policy: how images are prepared for the encoder.
    """

    online: Place
    target: Place | None = None
    default: str = 'online'
    heads: tuple[str, ...] = ('fc.*',)
    beside: tuple[str, ...] = ()
    heads_of: str = ''
    head_required: bool = False
    halves: bool = False
    stems: tuple[str, ...] = ('conv1.weight', 'patch_embed.proj.weight', 'patch_embed.proj.0.weight')
    nested: bool = False
    unused: tuple[str, ...] = (f'*.{names.COUNTER}',)
    rename: Rename = dict
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    policy: Policy = pixels.IMAGENET

    def network(self, weights: str) -> tuple[Place, Place | None]:
        """The place of a network, 'online' or 'target', and that of the other one. A single network is 'online'."""
        return (self.target, self.online) if self.target and weights == 'target' else (self.online, self.target)


BYOL_HEADS = tuple(
    f'{kind}/{head}/*' for kind in ('params', 'state') for head in ('projector', 'predictor', 'classifier')
)

OTHER_HEADS = (
    'fc.*', 'head.*', 'heads.*', 'classifier.*', 'linear.*', 'projector.*', 'projection_head.*', 'prediction_head.*',
    'mask_token',
)  # fmt: skip

# The formats, in the order in which a file is compared with them.
FORMS: dict[str, Form] = {
    'moco': Form(  # MoCo v1 and v2
        online=Place(('state_dict',), ('module.encoder_q.',), ('module.encoder_q.*',), 'query encoder'),
        target=Place(('state_dict',), ('module.encoder_k.',), ('module.encoder_k.*',), 'key encoder'),
        beside=('module.queue', 'module.queue_ptr'),
    ),
    'mocov3': Form(
        online=Place(('state_dict',), ('module.base_encoder.',), ('module.base_encoder.*',), 'base encoder'),
        target=Place(
            ('state_dict',), ('module.momentum_encoder.',), ('module.momentum_encoder.*',), 'momentum encoder'
        ),
        heads=('fc.*', 'head.*'),
        beside=('module.predictor.*',),
        heads_of='vit',
    ),
    'simsiam': Form(Place(('state_dict',), ('module.encoder.',)), beside=('module.predictor.*',)),
    'dino': Form(
        online=Place(('student',), ('module.backbone.', 'backbone.'), called='student'),
        target=Place(('teacher',), ('backbone.', 'module.backbone.'), called='teacher'),
        default='target',
        heads=(),
        beside=('head.*', 'module.head.*'),
        heads_of='dino',
    ),
    # CMC's checkpoints of networks for YCbCr have the same format and cannot be told apart.
    'cmc': Form(
        Place(('model',), ('encoder.module.', 'module.encoder.')),
        heads=('l_to_ab.fc.*', 'ab_to_l.fc.*'),
        halves=True,
        stems=('l_to_ab.conv1.weight',),
        policy=Policy(**pixels.NORMALIZATIONS['lab']),
    ),
    'byol': Form(  # {'experiment_state': a named tuple of Haiku's trees for each of the two networks}
        online=Place(('experiment_state',), ('online_',), ('online_params/*', 'online_state/*'), 'online network'),
        target=Place(('experiment_state',), ('target_',), ('target_params/*', 'target_state/*'), 'target network'),
        heads=BYOL_HEADS,
        beside=('opt_state*',),
        stems=('params/*/initial_conv/w', 'params/*/initial_conv_1/w'),
        nested=True,
        unused=('state/*/hidden', 'state/*/counter'),
        rename=haiku_names.from_haiku,
        fields={'padding': 'same', 'bn_unbiased': False},
        policy=Policy(style='byol', interpolation='bicubic'),
    ),
    'simclr': Form(  # SimCLR v1 and v2; pre-trained, with a linear classifier, or fine-tuned
        Place(('',), ('base_model/',)),
        heads=(),
        beside=('head_*', 'global_step', '*/Momentum', '*LARSOptimizer*'),
        stems=('conv2d/kernel',),
        rename=simclr_names.from_simclr,
        fields={'padding': 'simclr', 'bn_unbiased': False},
        policy=Policy(style='simclr', interpolation='bicubic', **pixels.NORMALIZATIONS['unit']),
    ),
    'swav': Form(  # SwAV and DeepCluster-v2
        Place(('', 'state_dict'), ('module.',)), heads=('projection_head.*', 'prototypes*'), head_required=True
    ),
    'instdis': Form(Place(('state_dict',), ('module.',))),
    # torchvision and timm, and DINO's files that contain the backbone only
    'plain': Form(Place(('', 'state_dict_ema', 'model_ema', 'state_dict', 'model'), ('',)), heads=('fc.*', 'head.*')),
    # torchvision's or timm's names below a prefix or in a section of another project; `discover` finds them
    'other': Form(Place((), ()), heads=OTHER_HEADS),
}


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

    Raises:
      UserError: no format fits, the network is not in the file, or names are unknown, missing, or of another shape.
    """
    if normalization and normalization not in pixels.NORMALIZATIONS:
        meant = did_you_mean(normalization, pixels.NORMALIZATIONS)
        raise UserError(f'pixels {normalization!r} is unknown{meant} -> choose from {", ".join(pixels.NORMALIZATIONS)}')
    if section or prefix:
        if form:
            raise UserError(f'form {form} has its own sections and names -> leave out section and prefix, or form')
        form, network, section, prefix = _discover(source.content, section, prefix, path)
    else:
        form, network, section, prefix = _find(source.content, form, weights, path)
    about = FORMS[form]
    if weights == 'target' and not about.target:
        raise UserError(f"{path} has the format {form}, which holds one network -> choose weights 'online'")
    place, other = about.network(network)
    say(f'form: {form}{f", section {section!r}" if section else ""}{f", names {prefix}*" if prefix else ""}')
    if other:
        both = f'; the file also contains the {other.called}' if _match(source.content, about, other) else ''
        say(f'network: {place.called} (weights={network}){both}')
    held = _held(source.content, section, about)
    kept, skipped, unknown = _sort(held, prefix, about, other, drop)
    if unknown:
        raise UserError(
            f'{path} contains names that {form} checkpoints do not have: {few(unknown)} -> skip them with '
            f'drop={unknown[0]}, or choose another form'
        )
    for what, keys in skipped.items():
        if keys:
            say(f'skipped, {what}: {few(keys)}')
    state = {}
    for name in kept:
        try:
            state[name] = source.array(held[prefix + name])
        except UserError as error:
            raise UserError(f'{path} cannot be read at {prefix}{name}: {error}') from error
    try:
        state = about.rename(state)
        given = parse_encoder(encoder) if isinstance(encoder, str) and encoder else encoder
        config = {**about.fields, **(given or _describe(state, about))}
        arrays, image_size = _arrays_by_path(config, state)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    policy = dataclasses.replace(about.policy, **pixels.NORMALIZATIONS.get(normalization, {}))
    found = assemble(config, arrays, image_size, str(path), policy)
    found = dataclasses.replace(found, source=f'{path}, {place.called}') if other else found
    say(f'encoder: {config}, {found.num_parameters:,} parameters')
    assumed = ', the default: the weights do not record it' if form in ('plain', 'other') and not normalization else ''
    say(f'input: {pixels.describe(policy)}{assumed}')
    return found


def _find(content: Any, form: str, weights: str | None, path: Path) -> tuple[str, str, str, str]:
    """The first form that the file has, and in it the network ('online' or 'target'), the section and the prefix."""
    if form and form not in FORMS:
        raise UserError(f'form {form!r} is unknown{did_you_mean(form, FORMS)} -> choose from {", ".join(FORMS)}')
    for name in [form] if form else FORMS:
        about = FORMS[name]
        # Without a choice: the network that the authors evaluate or, if the file does not contain it, the other one.
        other = 'online' if about.default == 'target' else 'target'
        for network in (weights,) if weights else (about.default, other):
            if found := _match(content, about, about.network(network)[0]):
                return name, network, *found
    if not form and not weights and discover(content):
        return _discover(content, '', '', path)
    keys = [str(key) for key in content] if isinstance(content, dict) else [type(content).__name__]
    wanted = f'is not a {form} checkpoint' if form else 'is in no known checkpoint format'
    network = f' with weights {weights!r}' if weights else ''
    parts = content.values() if isinstance(content, dict) else ()
    inside = [str(key) for part in parts if isinstance(part, dict) for key in part]
    raise UserError(
        f'{path} {wanted}{network} (it contains {few(keys)}{f"; in them {few(inside)}" if inside else ""}) -> '
        f'choose another form: {", ".join(FORMS)}'
    )


def _discover(content: Any, section: str, prefix: str, path: Path) -> tuple[str, str, str, str]:
    """The only encoder under torchvision's or timm's names, in the form of the result of `_find`.

    Raises:
      UserError: there is none, or more than one.
    """
    places = discover(content, section, prefix)
    if len(places) == 1:
        return 'other', 'online', *places[0]
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
    held: Mapping[Any, Any], prefix: str, about: Form, other: Place | None, drop: tuple[str, ...]
) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Sorts names: those of the encoder, without prefix; those that are skipped, by reason; and unknown ones."""
    kept: list[str] = []
    unknown: list[str] = []
    skipped: dict[str, list[str]] = {'as asked': [], 'head': [], 'not of the encoder': []}
    beside = about.beside + (other.names if other else ())
    for key in held:
        name = key.removeprefix(prefix)
        inside = key.startswith(prefix)
        if _matches(key, drop):
            skipped['as asked'].append(key)
        elif _matches(key, beside):
            skipped['not of the encoder'].append(key)
        elif inside and _matches(name, about.heads):
            skipped['head'].append(key)
        elif not inside and about is FORMS['other']:
            skipped['not of the encoder'].append(str(key))
        elif not inside:
            unknown.append(key)
        elif not _matches(name, about.unused):
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


def _arrays_by_path(config: dict[str, Any], state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """The arrays by our paths, and the size of the images. Names that the encoder does not have are unchanged."""
    size = architecture.image_size(config, state)
    ours = {theirs: path for path, theirs in names.torch_names(shapes(config, size)).items()}
    state = dict(state)
    if architecture.POSITION in state and architecture.POSITION not in ours:  # fixed, and not a parameter here
        wrong = architecture.check_position(state.pop(architecture.POSITION))
        if wrong:
            raise UserError(
                f'{wrong}; {config["name"]} has fixed sin-cos positions -> name the right ViT, such as '
                'encoder=dino_small'
            )
    return {ours.get(name, name): names.from_torch(ours.get(name, name), x) for name, x in state.items()}, size


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
