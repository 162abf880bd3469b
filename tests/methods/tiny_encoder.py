"""The golden trajectories' tiny networks: TinyEnc is Linear(no bias) - [BatchNorm] - ReLU, followed by a head."""

import re
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.models.heads import MLP
from contrastive_jax.models.network import Network
from contrastive_jax.models.norm import BatchNorm


class TinyEncoder(nn.Module):
    """Linear without bias, optional BN, ReLU; inputs [B, ...] are flattened to vectors."""

    hidden_dim: int
    batch_norm: bool
    bn_group_size: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x, *, train: bool, axis_name: str | None = None):
        x = x.reshape(x.shape[0], -1)
        x = nn.Dense(self.hidden_dim, use_bias=False, dtype=self.dtype, name='linear')(x)
        if self.batch_norm:
            x = BatchNorm(group_size=self.bn_group_size, dtype=self.dtype, name='bn')(
                x, train=train, axis_name=axis_name
            )
        return nn.relu(x)


def network(
    hidden_dim: int, batch_norm: bool, group_size: int | None, dtype: Any, projector: dict, predictor: dict | None
):
    head = {'bn_group_size': group_size, 'dtype': dtype}
    return Network(
        encoder=TinyEncoder(hidden_dim, batch_norm, group_size, dtype),
        projector=MLP(**projector, **head),
        predictor=None if predictor is None else MLP(**predictor, **head),
    )


def split(tree: dict[str, np.ndarray], parts: dict[str, str], precision: str) -> tuple[PyTree, PyTree]:
    """A torch state_dict as (params, batch_stats).

    Args:
      tree: arrays by torch name.
      parts: torch prefix -> our name, e.g. {'base_encoder.body': 'encoder', 'base_encoder.head': 'projector'}.
      precision: dtype of the result.
    """
    params, stats = {}, {}
    for prefix, part in parts.items():
        found: dict[int, dict[str, np.ndarray]] = {}
        for name, x in tree.items():
            if (match := re.fullmatch(re.escape(prefix) + r'(?:\.(\d+))?\.(\w+)', name)) and match[
                2
            ] != 'num_batches_tracked':
                found.setdefault(int(match[1] or 0), {})[match[2]] = jnp.asarray(x, precision)
        params[part], stats[part], layer = {}, {}, -1
        for _, arrays in sorted(found.items()):
            if arrays.get('weight', np.zeros(1)).ndim == 2:
                layer += 1
                linear = {'kernel': arrays['weight'].T} | ({'bias': arrays['bias']} if 'bias' in arrays else {})
                params[part]['linear' if part == 'encoder' else f'linear_{layer}'] = linear
                continue
            bn = 'bn' if part == 'encoder' else f'bn_{layer}'
            if 'weight' in arrays:
                params[part][bn] = {'scale': arrays['weight'], 'bias': arrays['bias']}
            if 'running_mean' in arrays:
                stats[part][bn] = {'mean': arrays['running_mean'], 'var': arrays['running_var']}
    return params, {part: tree for part, tree in stats.items() if tree}
