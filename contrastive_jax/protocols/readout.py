"""Which features of a frozen encoder a protocol evaluates: the section `config.features`."""

import dataclasses

from ml_collections import ConfigDict

from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.rules import Rules, field


@dataclasses.dataclass(frozen=True)
class Features:
    """The section `features`; its defaults are the encoder's own features (the class token of a ViT)."""

    last_blocks: int = field(1, 'For a ViT: the class tokens of this many last blocks are concatenated.', least=1)
    average_pool: bool = field(False, "For a ViT: the mean of the last block's patch tokens is concatenated, too.")
    projector_layers: int = field(
        0, 'The features are the output of this many first layers of the projector; 0: its input.', least=0
    )


def rules(c: ConfigDict, rules: Rules) -> None:
    """Adds what is wrong with the fields of the section together."""
    f = c.features
    rules.rule(
        not f.projector_layers or (f.last_blocks == 1 and not f.average_pool),
        f'features.projector_layers {f.projector_layers} needs the features that the projector was trained on',
        field='features.projector_layers',
        remedy='last_blocks=1, without average_pool',
    )


def of(c: ConfigDict, encoder: Encoder) -> Encoder:
    """The encoder with these features.

    Raises:
      UserError: it does not have them.
    """
    return encoder.with_tokens(c.features.last_blocks, c.features.average_pool).projected()
