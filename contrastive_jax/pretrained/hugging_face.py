"""Folders of timm and transformers: the weights, and what the file `config.json` beside them says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS = 'config.json', 'model.safetensors'
MAX_BYTES = 2**20  # of a config
# The fields of a ViT's config in transformers -> ours.
VIT_FIELDS = {
    'hidden_size': 'width', 'num_hidden_layers': 'depth', 'num_attention_heads': 'num_heads',
    'patch_size': 'patch_size', 'layer_norm_eps': 'layer_norm_epsilon', 'qkv_bias': 'qkv_bias',
}  # fmt: skip


def weights_in(path: Path) -> Path | None:
    """The file of weights in a folder of timm or transformers; None if the path is no such folder."""
    file = path / WEIGHTS
    return file if file.is_file() and config_beside(file) else None


def config_beside(path: Path) -> dict[str, Any]:
    """The content of `config.json` in the folder of a file; {} if there is none."""
    file = path.parent / CONFIG
    try:
        if not file.is_file() or file.stat().st_size > MAX_BYTES:
            return {}
        held = json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return {}
    known = isinstance(held, dict) and ('architecture' in held or 'model_type' in held)  # others have such files too
    return held if known else {}


def vit_fields(config: Mapping[str, Any], dialect: str) -> dict[str, Any]:
    """The section `encoder` for a ViT of transformers, whose weights do not tell the number of heads; {} if unknown."""
    if not dialect.startswith('transformers ViT') or not all(
        type(config.get(key)) in (int, float, bool) for key in VIT_FIELDS
    ):
        return {}
    fields = {ours: config[theirs] for theirs, ours in VIT_FIELDS.items()}
    ratio = config.get('intermediate_size', 4 * config['hidden_size']) / max(config['hidden_size'], 1)
    return {'name': 'dino_small', **fields, **({} if ratio == 4 else {'mlp_ratio': ratio})}
