"""Writes an encoder as a folder in the layout of the Hugging Face Hub, for timm or for transformers.

The folder has `config.json`, `model.safetensors`, a model card (`README.md`) and, for transformers,
`preprocessor_config.json`. timm's folder is for both libraries: transformers reads it if timm is installed. Both read
their own names in `model.safetensors` only, so a folder for transformers alone is another one.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import encoder_file, model_card, pixels, state_dicts, timm_model, transformers_model
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.pretrained.hugging_face import CONFIG, WEIGHTS
from contrastive_jax.workdir.atomic import write_atomically

LIBRARIES = ('timm', 'transformers')
CARD, PREPROCESSOR = 'README.md', 'preprocessor_config.json'


def check_free(folder: Path) -> None:
    """Raises UserError if the folder has a file that would be replaced: a run, a model, or a model card."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f'{folder} is a file -> choose another folder')
    if held := [name for name in (CONFIG, WEIGHTS, CARD, PREPROCESSOR) if (folder / name).exists()]:
        raise UserError(f'{folder} already has {held[0]}, which is not replaced -> choose another folder')


def write(folder: Path, encoder: Encoder, library: str) -> list[str]:
    """Writes the folder; if a file cannot be written, those before it are taken away again.

    Args:
      folder: an empty folder, or one that does not exist yet; other files in it are kept.
      encoder: as it was loaded, or for another image size.
      library: a value of LIBRARIES.

    Returns:
      What a user of the folder must know, line by line.

    Raises:
      UserError: the library has no such network, or the folder has a file that would be replaced.
      OSError: a file cannot be written.
    """
    check_free(folder)
    if encoder.policy.color_space != 'rgb':
        raise UserError(
            f'{encoder.architecture["name"]} takes images in {encoder.policy.color_space}, to which {library} does not '
            f'convert them -> {state_dicts.SELF_CONTAINED}'
        )
    state, texts = state_dicts.state_dict(encoder), {CARD: model_card.text(encoder, folder.name, library)}
    if library == 'timm':
        config = timm_model.config(encoder)
    else:
        config, state = transformers_model.config(encoder), transformers_model.rename(state)
        texts[PREPROCESSOR] = _json(transformers_model.preprocessor(encoder))
    texts[CONFIG] = _json(config)  # the last file: a folder without it is no model
    arrays = {name: np.asarray(x, order='C') for name, x in state.items()}
    metadata = {'format': 'pt', **encoder_file.beside_other_names(encoder)}
    files: dict[str, bytes | Callable[[Path], object]] = {
        WEIGHTS: lambda temporary: save_file(arrays, temporary, metadata=metadata),
        **{name: text.encode() for name, text in texts.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    try:
        for name, content in files.items():
            write_atomically(folder / name, content)
            written.append(folder / name)
    except BaseException:
        for file in written:
            file.unlink()
        raise
    return [
        model_card.load_line(str(folder), library),
        f'input: {pixels.describe(encoder.policy)}',
        f'{CARD} names no license: choose one before you publish the folder',
    ]


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + '\n'
