"""Which features of a frozen encoder a protocol looks at: the section `config.features`."""

from ml_collections import ConfigDict

from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.rules import Rules


def fields(c: ConfigDict) -> None:
    """The encoder's own features: of a ViT the class token."""
    c.features = ConfigDict()
    c.features.last_blocks = 1  # of a ViT: class tokens of so many of its last blocks, side by side
    c.features.average_pool = False  # of a ViT: and beside them the mean of the last block's patch tokens
    c.features.projector_layers = 0  # what comes out of so many first layers of the projector; 0: what goes in


def rules(c: ConfigDict, rules: Rules) -> None:
    """What is wrong with the section."""
    rules.within('features.last_blocks', 1)
    rules.within('features.projector_layers', 0)
    f = c.features
    rules.rule(
        not f.projector_layers or (f.last_blocks == 1 and not f.average_pool),
        f'features.projector_layers {f.projector_layers} with other features than the projector was trained on -> '
        'last_blocks=1, without average_pool',
    )


def of(c: ConfigDict, encoder: Encoder) -> Encoder:
    """The encoder with these features.

    Raises:
      UserError: it does not have them.
    """
    return encoder.with_tokens(c.features.last_blocks, c.features.average_pool).projected()
