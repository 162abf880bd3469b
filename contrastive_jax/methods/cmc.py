"""CMC (arXiv 1906.05849): the luminance of an image and its color are two views, each with an encoder and a bank.

Official source: HobbitLong/CMC, train_CMC.py, NCE/NCEAverage.py, NCE/NCECriterion.py. The features of one view are
compared with the memory bank of the other view. The loss is the sum of both directions, which share the sampled rows.
As in the official code, a partition constant for each direction is estimated in the first step and kept.
"""

import dataclasses
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from contrastive_jax.distributed.collectives import PyTree
from contrastive_jax.distributed.devices import REPLICATED
from contrastive_jax.losses.collapse import feature_std
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, memory, networks
from contrastive_jax.methods.instdis import OBJECTIVES, check_objective, contrast_with_bank, init_log_Z
from contrastive_jax.rules import Rules, field


@dataclasses.dataclass(frozen=True)
class CMC(base.Method):
    """Contrastive multiview coding.

    Attributes:
      network: split encoder and projector (models/split.py), no predictor; the images are in Lab or YCbCr
        (`augment.color_space`).
      num_examples: N, rows of each bank; 0 in a config: the number of examples in the data set.
      num_negatives: K, rows that are sampled for each example; 0: the softmax is over all rows.
      objective: 'nce', or 'softmax' over the positive row and the K sampled rows.
      momentum: m of the update v <- normalize(m v + (1 - m) f).
      temperature: T of the softmax.
    """

    num_examples: int = field(0, least=0)
    num_negatives: int = field(16384, least=0, most=2**30)
    objective: str = field('nce', choices=OBJECTIVES)
    momentum: float = field(0.5, least=0, most=1)
    temperature: float = field(0.07, above=0)

    global_views: ClassVar[tuple[int, ...]] = (1,)
    split_encoder: ClassVar[bool] = True
    memory_spec: ClassVar[PyTree] = {
        'bank_l': memory.BANK_SPEC,
        'bank_ab': memory.BANK_SPEC,
        'log_Z_l': REPLICATED,
        'log_Z_ab': REPLICATED,
    }

    @classmethod
    def check(cls, c: ConfigDict, rules: Rules) -> None:
        check_objective(c, rules)

    def init(self, rng: Array, batch: base.Batch) -> tuple[PyTree, base.MethodState]:
        params, state = networks.init_online(self.network, rng, batch)
        dim = self.network.projector.l.output_dim
        banks = {
            'bank_l': memory.init_bank(jax.random.fold_in(rng, 1), self.num_examples, dim),
            'bank_ab': memory.init_bank(jax.random.fold_in(rng, 2), self.num_examples, dim),
        }
        constants = {'log_Z_l': init_log_Z(self.objective), 'log_Z_ab': init_log_Z(self.objective)}
        return params, dataclasses.replace(state, memory=banks | constants)

    def loss(
        self,
        params: PyTree,
        state: base.MethodState,
        batch: base.Batch,
        *,
        rng: Array,
        progress: Array | float,
        axis_name: str | None = None,
    ) -> base.LossOutput:
        del progress
        old, index = state.memory, batch['index']
        f, stats = networks.project(self.network, params, state.batch_stats['online'], batch['views'][0], axis_name)
        l, ab = map(normalize, jnp.split(f, 2, axis=-1))  # [b, D] each
        negatives = memory.sample_rows(rng, len(f), self.num_negatives, self.num_examples, axis_name)  # [b, K]
        compare = partial(
            contrast_with_bank, objective=self.objective, num_examples=self.num_examples, temperature=self.temperature,
            axis_name=axis_name,
        )  # fmt: skip
        output_l = compare(l, old['bank_ab'], index, negatives, old['log_Z_l'])
        output_ab = compare(ab, old['bank_l'], index, negatives, old['log_Z_ab'])

        metrics = output_l.metrics(self.temperature)
        metrics |= {
            'contrastive_top1_ab': jnp.mean(output_ab.terms.correct),
            'feature_std': feature_std(l, axis_name),
            'feature_std_ab': feature_std(ab, axis_name),
        }
        new = {
            'bank_l': memory.update_bank(old['bank_l'], index, l, self.momentum, axis_name),
            'bank_ab': memory.update_bank(old['bank_ab'], index, ab, self.momentum, axis_name),
            'log_Z_l': output_l.log_Z,
            'log_Z_ab': output_ab.log_Z,
        }
        state = base.MethodState(target={}, batch_stats={'online': stats}, memory=new)
        return output_l.loss + output_ab.loss, (state, metrics)
