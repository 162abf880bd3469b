"""Loads a trained encoder, whatever holds it: the workdir of a run, a file of ours, or a published checkpoint."""

import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import encoder_file, files, hugging_face, published, run_files, tensorflow_files
from contrastive_jax.pretrained.encoder import WEIGHTS, Encoder, Say
from contrastive_jax.rules import did_you_mean
from contrastive_jax.workdir.kept import parse_step


def load(
    path: str | Path,
    weights: str | None = None,
    projector_layers: int = 0,
    *,
    step: int | str | None = None,
    form: str = '',
    encoder: str | Mapping[str, Any] = '',
    drop: tuple[str, ...] = (),
    pixels: str = '',
    section: str = '',
    prefix: str = '',
    fields: Mapping[str, Any] = types.MappingProxyType({}),
    say: Say | None = None,
) -> Encoder:
    """Loads an encoder with its weights. What it is loaded from is not changed.

        encoder = load('runs/digits')
        h = encoder(images)  # uint8[n, H, W, C], C = 3 for RGB -> float32[n, D]

    Args:
      path: the workdir of a run, whose newest checkpoint is taken unless `step` names another; a file of weights: one
        that `save` wrote, or a published checkpoint; or a folder of timm or transformers, with `config.json` and
        `model.safetensors`. The workdir of a fine-tuning or a distillation gives the encoder that it trained.
      weights: which network: 'online', the one that was trained, or 'target', its moving average (BYOL's target, MoCo's
        key encoder, DINO's teacher). None: 'online' of a run; of a published checkpoint, the one that its authors
        evaluate. A file with one network has no target.
      projector_layers: of a run: the number of first layers of the projector to load as well.
      step: which checkpoint of a run: its step, or 'best', the one that `config.keep_best` keeps; None: the newest.
      form: the format of a published checkpoint, a key of `forms.FORMS`; '': detected.
      encoder: of a published checkpoint: the section `encoder` of a config, such as {'name': 'vit_small',
        'num_heads': 6}, or the same as a text, 'vit_small,num_heads=6'; '': detected. Of a file of ours whose encoder
        is a class of your own: its name, 'package.module:Class', unless you have imported the module.
      drop: of a published checkpoint: patterns of names that are skipped, such as ('aux.*',).
      pixels: of a published checkpoint: the input normalization, which weights do not record, a key of
        `pixels.NORMALIZATIONS`; '': that of the paper, and ImageNet's for torchvision and timm.
      section: of a file of another project with torchvision's or timm's names: the section of the state dict, such as
        'model_state_dict'; '': searched.
      prefix: of such a file: the prefix of the encoder's names, such as 'backbone.'; '': searched.
      fields: fields of a published checkpoint's encoder that weights do not tell, beside those detected, such as
        {'stem_padding': 2, 'stem_pool': True}.
      say: is called with what was found, assumed and skipped, line by line. None: an input normalization that was
        assumed only because the file does not record it is a warning, and nothing else is said.

    Returns:
      The encoder.

    Raises:
      UserError: the path cannot be read, or what it holds is incomplete, or has no such network, step or projector
        layers.
      CheckpointError: the run has no checkpoint that can be used.
    """
    path = Path(path).expanduser()
    if weights is not None and weights not in WEIGHTS:
        raise UserError(f'weights {weights!r} is unknown{did_you_mean(weights, WEIGHTS)} -> choose online or target')
    step = parse_step(step)
    if not path.exists() and not tensorflow_files.find(path):
        raise UserError(f'{path} does not exist -> give the workdir of a run, or a file of weights')
    if run_files.is_workdir(path):
        found = run_files.load(path.absolute(), weights or 'online', projector_layers, _config_of_file, step)
    elif step is not None:
        raise UserError(
            f'{path} is a file of weights, which holds one network and no steps (asked for: {step})',
            field='step',
            remedy='give the workdir of a run, or leave the step out',
        )
    elif projector_layers:
        raise UserError(
            f'{path} is a file of weights, which holds no projector -> give the workdir of a run, or projector_layers 0'
        )
    else:
        path = hugging_face.weights_in(path) or path
        source = files.read(path)
        if not encoder_file.is_ours(source):
            assumed: list[str] = []
            found = published.load(
                path,
                source,
                weights,
                form,
                encoder,
                drop,
                pixels,
                say or (lambda _: None),
                section=section,
                prefix=prefix,
                fields=fields,
                assume=say or assumed.append,
            )
            for line in assumed:
                warnings.warn(line, stacklevel=2)
            return found
        if weights == 'target':
            raise UserError(f"{path} holds one network, and no target -> choose weights 'online'")
        found = encoder_file.load(path, source, encoder if isinstance(encoder, str) else '')
        encoder = '' if encoder == found.architecture['name'] else encoder
    if form or encoder or drop or pixels or section or prefix or fields:
        raise UserError(f'{path} describes its encoder itself -> give no further arguments')
    if say is not None:
        say(f'encoder: {found.architecture}, {found.num_parameters:,} parameters, from {found.source}')
    return found


def _config_of_file(path: Path) -> ConfigDict:
    """The config of the encoder in a file of weights."""
    return load(path, say=lambda _: None).config
