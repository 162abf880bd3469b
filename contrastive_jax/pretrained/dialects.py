"""The names of other libraries for the arrays of a ResNet or a ViT, and those of torchvision and timm for them."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Dialect:
    """A naming scheme.

    Attributes:
      stem: the name of the first convolution, after the prefix; a regular expression.
      block: a name in the first block that every encoder of this scheme has.
      unused: patterns of fnmatch of names that an encoder does not need.
      replace: (regular expression, replacement) pairs, applied in this order to each name.
      fields: fields of the section `encoder` that the weights do not determine.
    """

    stem: str
    block: str
    unused: tuple[str, ...] = ()
    replace: tuple[tuple[str, str], ...] = ()
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def rename(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays by torchvision's or timm's names."""
        renamed = {}
        for name, x in state.items():
            for pattern, replacement in self.replace:
                name = re.sub(pattern, replacement, name)
            renamed[name] = x
        return _joined(renamed)


SHORTCUT = (r'\bshortcut\.', 'downsample.')  # kuangliu's, SupContrast's and lightly's ResNets for CIFAR


def _numbered(first: int) -> tuple[tuple[str, str], ...]:
    """The children of a ResNet in a Sequential, whose stages have the numbers `first` to `first` + 3."""
    stages = tuple((rf'^{first + n}\.(?=\d)', f'layer{n + 1}.') for n in range(4))
    return ((r'^0\.(?=weight)', 'conv1.'), (r'^1\.(?!\d)', 'bn1.'), *stages, SHORTCUT)


_VIT_ENDS = (
    (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
    (r'^embeddings\.position_embeddings$', 'pos_embed'),
    (r'^embeddings\.cls_token$', 'cls_token'),
    (r'^layernorm\.', 'norm.'),
)
_LAYER = r'^encoder\.layer\.(\d+)\.'

# In the order in which a file is compared with them.
DIALECTS: dict[str, Dialect] = {
    'torch': Dialect(
        r'conv1\.weight|patch_embed\.proj\.(0\.)?weight',
        r'layer1\.0\.conv1\.weight|blocks\.0\.norm1\.weight',
        replace=(SHORTCUT,),
    ),
    # lightly: nn.Sequential(*list(resnet.children())[:-1]), of its own ResNet for CIFAR and of torchvision's
    'numbered without pooling': Dialect(
        r'0\.weight', r'2\.0\.conv1\.weight', replace=_numbered(2), fields={'stem_relu': False}
    ),
    'numbered': Dialect(r'0\.weight', r'4\.0\.conv1\.weight', replace=_numbered(4)),
    'transformers ResNet': Dialect(
        r'embedder\.embedder\.convolution\.weight',
        r'encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight',
        replace=(
            (r'^embedder\.embedder\.convolution\.', 'conv1.'),
            (r'^embedder\.embedder\.normalization\.', 'bn1.'),
            *((rf'^encoder\.stages\.{n}\.layers\.', f'layer{n + 1}.') for n in range(4)),
            (r'\bshortcut\.convolution\.', 'downsample.0.'),
            (r'\bshortcut\.normalization\.', 'downsample.1.'),
            *((rf'\blayer\.{n}\.convolution\.', f'conv{n + 1}.') for n in range(3)),
            *((rf'\blayer\.{n}\.normalization\.', f'bn{n + 1}.') for n in range(3)),
        ),
    ),
    'transformers ViT': Dialect(
        r'embeddings\.patch_embeddings\.projection\.weight',
        r'encoder\.layer\.0\.layernorm_before\.weight',
        unused=('pooler.*', 'embeddings.mask_token'),
        replace=(
            *_VIT_ENDS,
            (_LAYER + r'layernorm_before\.', r'blocks.\1.norm1.'),
            (_LAYER + r'layernorm_after\.', r'blocks.\1.norm2.'),
            (_LAYER + r'attention\.attention\.(query|key|value)\.', r'blocks.\1.attn.\2.'),
            (_LAYER + r'attention\.output\.dense\.', r'blocks.\1.attn.proj.'),
            (_LAYER + r'intermediate\.dense\.', r'blocks.\1.mlp.fc1.'),
            (_LAYER + r'output\.dense\.', r'blocks.\1.mlp.fc2.'),
        ),
        fields={'layer_norm_epsilon': 1e-12},
    ),
    'transformers ViT 5': Dialect(  # the names within transformers since version 5
        r'embeddings\.patch_embeddings\.projection\.weight',
        r'layers\.0\.layernorm_before\.weight',
        unused=('pooler.*', 'embeddings.mask_token'),
        replace=(
            *_VIT_ENDS,
            (r'^layers\.(\d+)\.layernorm_before\.', r'blocks.\1.norm1.'),
            (r'^layers\.(\d+)\.layernorm_after\.', r'blocks.\1.norm2.'),
            (r'^layers\.(\d+)\.attention\.q_proj\.', r'blocks.\1.attn.query.'),
            (r'^layers\.(\d+)\.attention\.k_proj\.', r'blocks.\1.attn.key.'),
            (r'^layers\.(\d+)\.attention\.v_proj\.', r'blocks.\1.attn.value.'),
            (r'^layers\.(\d+)\.attention\.o_proj\.', r'blocks.\1.attn.proj.'),
            (r'^layers\.(\d+)\.mlp\.', r'blocks.\1.mlp.'),
        ),
        fields={'layer_norm_epsilon': 1e-12},
    ),
}


def _joined(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Joins the arrays of queries, keys and values, which timm has as one."""
    joined = {}
    for name, x in state.items():
        place, kind, leaf = name.rpartition('.query.')
        others = [f'{place}.{part}.{leaf}' for part in ('key', 'value')]
        if kind and all(other in state for other in others):
            joined[f'{place}.qkv.{leaf}'] = np.concatenate([x, *(state[other] for other in others)])
        elif not re.search(r'\.(key|value)\.', name) or re.sub(r'\.(key|value)\.', '.query.', name) not in state:
            joined[name] = x
    return joined
