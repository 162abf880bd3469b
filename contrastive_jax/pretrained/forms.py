"""The formats of published checkpoints: where the encoder is in the file, and what else the file contains."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from contrastive_jax.augment.policy import Policy
from contrastive_jax.pretrained import haiku_names, names, pixels, simclr_names
from contrastive_jax.pretrained.dialects import DIALECTS

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
    'instdis': Form(Place(('state_dict',), ('module.',)), heads=OTHER_HEADS),
    # torchvision and timm, and DINO's files that contain the backbone only
    'plain': Form(
        Place(('', 'state_dict_ema', 'model_ema', 'state_dict', 'model'), ('',)),
        heads=OTHER_HEADS,
        rename=DIALECTS['torch'].rename,
    ),
    # the names of `dialects` below a prefix or in a section of another project; `discover` finds them
    'other': Form(
        online=Place((), (), called='trained network'),
        target=Place((), (), called='moving average'),
        heads=OTHER_HEADS,
    ),
}

# The formats in words, for messages.
IN_WORDS = {
    'moco': 'MoCo v1 or v2',
    'mocov3': 'MoCo v3',
    'simsiam': 'SimSiam',
    'dino': 'DINO',
    'cmc': 'CMC',
    'byol': 'BYOL',
    'simclr': 'SimCLR',
    'swav': 'SwAV or DeepCluster-v2',
    'instdis': 'InstDis',
    'plain': "a state dict under torchvision's or timm's names",
    'other': 'weights in a file of another project',
}
