"""CMC (arXiv 1906.05849): the luminance of an image and its colours are two views, each with an encoder and a bank.

Official source: HobbitLong/CMC, train_CMC.py, NCE/NCEAverage.py, NCE/NCECriterion.py. The features of one view are
compared with the bank of the other; the loss is the sum of both directions, over the same rows drawn. As in the code, a
partition constant for each direction is estimated in the first step and kept.
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
from contrastive_jax.losses.numerics import normalize
from contrastive_jax.methods import base, memory
from contrastive_jax.methods.instdis import OBJECTIVES, check_objective, contrast, unknown_log_Z
from contrastive_jax.rules import Rules, field


@dataclasses.dataclass(frozen=True)
class CMC(base.Method):
    """Contrastive multiview coding.

    Attributes:
      network: split encoder and projector (models.split), no predictor; the images are in Lab or YCbCr
        (`augment.color_space`).
      num_examples: N, rows of each bank; 0 in a config means: as many as the data set has.
      num_negatives: K, rows drawn for each example; 0: none are drawn, the softmax is over all rows.
      objective: 'nce', or 'softmax' over the own row and the K others.
      momentum: m of the rows, v <- normalise(m v + (1 - m) f).
      temperature: T.
    """

    num_examples: int = field(0, least=0)
    num_negatives: int = field(16384, least=0)
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
        params, stats = base.init_network(self.network, rng, batch)
        dim = self.network.projector.l.output_dim
        banks = {
            'bank_l': memory.init_bank(jax.random.fold_in(rng, 1), self.num_examples, dim),
            'bank_ab': memory.init_bank(jax.random.fold_in(rng, 2), self.num_examples, dim),
        }
        constants = {'log_Z_l': unknown_log_Z(self.objective), 'log_Z_ab': unknown_log_Z(self.objective)}
        return params, base.MethodState(target={}, batch_stats={'online': stats}, memory=banks | constants)

    def loss(
        self,
        params: PyTree,
        state: base.MethodState,
        batch: base.Batch,
        *,
        rng: Array,
        progress: Array | float,
        axis_name: str | None = None,
    ) -> tuple[Array, tuple[base.MethodState, dict[str, Array]]]:
        del progress
        old, index = state.memory, batch['index']
        f, stats = base.project(self.network, params, state.batch_stats['online'], batch['views'][0], axis_name)
        l, ab = map(normalize, jnp.split(f, 2, axis=-1))  # [b, D] each
        drawn = memory.draw_rows(rng, len(f), self.num_negatives, self.num_examples, axis_name)  # [b, K], for both
        compare = partial(
            contrast, objective=self.objective, num_examples=self.num_examples, temperature=self.temperature,
            axis_name=axis_name,
        )  # fmt: skip
        found_l = compare(l, old['bank_ab'], index, drawn, old['log_Z_l'])
        found_ab = compare(ab, old['bank_l'], index, drawn, old['log_Z_ab'])

        metrics = found_l.metrics(self.temperature)
        metrics |= {
            'contrastive_top1_ab': jnp.mean(found_ab.terms.correct),
            'feature_std': base.feature_std(l, axis_name),
            'feature_std_ab': base.feature_std(ab, axis_name),
        }
        new = {
            'bank_l': memory.bank_update(old['bank_l'], index, l, self.momentum, axis_name),
            'bank_ab': memory.bank_update(old['bank_ab'], index, ab, self.momentum, axis_name),
            'log_Z_l': found_l.log_Z,
            'log_Z_ab': found_ab.log_Z,
        }
        state = base.MethodState(target={}, batch_stats={'online': stats}, memory=new)
        return found_l.loss + found_ab.loss, (state, metrics)
