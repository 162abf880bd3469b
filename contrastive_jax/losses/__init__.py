"""Losses: pure functions of arrays. They need jax alone, and can be used in any project.

Under a mapped axis (pmap, shard_map, or vmap with axis_name) pass `axis_name`. Each device passes its local rows, and
the value is the mean over the local examples. The pmean of the values and of their gradients equals the value and the
gradient of the whole batch on one device.
"""

from contrastive_jax.losses.barlow_twins import barlow_twins
from contrastive_jax.losses.classification import cross_entropy
from contrastive_jax.losses.colorization import color_bins, color_targets, color_weights, colorization, count_colors
from contrastive_jax.losses.cpc import cpc_grid, cpc_sequence
from contrastive_jax.losses.deepcluster import cluster_prediction, kmeans, pca_whiten, spherical_kmeans
from contrastive_jax.losses.dino import dino
from contrastive_jax.losses.distillation import distillation
from contrastive_jax.losses.info_nce import info_nce, info_nce_in_batch
from contrastive_jax.losses.instance_softmax import instance_softmax
from contrastive_jax.losses.nce import log_partition, nce, non_parametric_softmax, sampled_softmax
from contrastive_jax.losses.nnclr import nnclr
from contrastive_jax.losses.nt_xent import nt_xent, nt_xent_with_memory
from contrastive_jax.losses.reconstruction import masked_squared_error, reconstruction_cross_entropy
from contrastive_jax.losses.regression import negative_cosine, normalized_regression
from contrastive_jax.losses.swav import sinkhorn, swapped_prediction
from contrastive_jax.losses.vicreg import vicreg

__all__ = [
    'barlow_twins',
    'cluster_prediction',
    'color_bins',
    'color_targets',
    'color_weights',
    'colorization',
    'count_colors',
    'cpc_grid',
    'cpc_sequence',
    'cross_entropy',
    'dino',
    'distillation',
    'info_nce',
    'info_nce_in_batch',
    'instance_softmax',
    'kmeans',
    'log_partition',
    'masked_squared_error',
    'nce',
    'negative_cosine',
    'nnclr',
    'non_parametric_softmax',
    'normalized_regression',
    'nt_xent',
    'nt_xent_with_memory',
    'pca_whiten',
    'reconstruction_cross_entropy',
    'sampled_softmax',
    'sinkhorn',
    'spherical_kmeans',
    'swapped_prediction',
    'vicreg',
]
