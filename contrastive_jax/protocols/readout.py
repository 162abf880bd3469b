"""Which features of a frozen encoder a protocol evaluates: the section `config.features`."""

from ml_collections import ConfigDict

from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.rules import Rules


def fields(c: ConfigDict) -> None:
    """Adds the section; its defaults are the encoder's own features (the class token of a ViT)."""
    c.features = ConfigDict()
    c.features.last_blocks = 1  # for a ViT: concatenate the class tokens of this many last blocks
    c.features.average_pool = False  # for a ViT: also concatenate the mean of the last block's patch tokens
    c.features.projector_layers = 0  # output of this many first layers of the projector; 0: its input


def rules(c: ConfigDict, rules: Rules) -> None:
    """Adds what is wrong with the section."""
    rules.within('features.last_blocks', 1)
    rules.within('features.projector_layers', 0)
    f = c.features
    rules.rule(
        not f.projector_layers or (f.last_blocks == 1 and not f.average_pool),
        f'features.projector_layers {f.projector_layers} needs the features that the projector was trained on -> '
        'last_blocks=1, without average_pool',
    )


def of(c: ConfigDict, encoder: Encoder) -> Encoder:
    """The encoder with these features.

    Raises:
      UserError: it does not have them.
    """
    return encoder.with_tokens(c.features.last_blocks, c.features.average_pool).projected()
