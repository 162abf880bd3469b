"""One call for every kind of weights: a published checkpoint, a file of ours, the workdir of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import files, published, tensorflow_files, weights
from contrastive_jax.pretrained.encoder import load_encoder
from contrastive_jax.pretrained.published import Say
from contrastive_jax.pretrained.weights import Weights


def load(
    path: str | Path,
    *,
    form: str = '',
    encoder: Mapping[str, Any] | None = None,
    drop: tuple[str, ...] = (),
    network: str = 'online',
    pixels: str = '',
    say: Say = lambda _: None,
) -> Weights:
    """An encoder with its weights.

        weights = load('moco_v2_800ep_pretrain.pth.tar')
        x = weights.policy.normalize(images)  # uint8[B, 224, 224, 3]
        h = weights.encoder.apply(weights.variables, x, train=False)

    Args:
      path: a file of weights, the workdir of a run, or the folder of a checkpoint of TensorFlow.
      form: of a published checkpoint, a key of `published.FORMS`; '': found out.
      encoder: {'name': ..., fields}; None: found out.
      drop: patterns of names that are left behind as well.
      network: of a run: 'online', what was trained, or 'target', its moving average.
      pixels: that a published encoder sees, a key of `weights.SEEN`; '': those of its form.
      say: is told what was found, line by line.

    Raises:
      UserError: it cannot be read, or is not all there.
    """
    path = Path(path).expanduser()
    asked = form or encoder or drop or pixels
    if path.is_dir() and not tensorflow_files.find(path):
        made = _of_run(path, network)
    elif network != 'online':
        raise UserError(f'{path} is no workdir, which alone has a {network} -> name a --form instead')
    elif not weights.is_ours(source := files.read(path)):
        return published.load(path, source, form, encoder, drop, pixels, say)
    else:
        made = weights.from_file(path, source)
    if asked:
        raise UserError(f'{path} is ours, and says what it is -> without --form, --encoder, --drop and --pixels')
    say(f'encoder: {made.config}, {weights.count(made):,} parameters, from {made.source}')
    return made


def _of_run(workdir: Path, network: str) -> Weights:
    """The encoder of the newest checkpoint."""
    trained = load_encoder(workdir, network)
    variables = (
        {'params': trained.params, 'batch_stats': trained.stats} if trained.stats else {'params': trained.params}
    )
    config = trained.config.encoder.to_dict()
    source = f'{workdir.absolute()}, step {trained.step}, {network}'
    return Weights(config, variables, trained.image_size, source, trained.policy)
