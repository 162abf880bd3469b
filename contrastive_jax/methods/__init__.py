"""The methods, one file for each family of papers. To add one, see base.py; METHODS maps `method.name` to a class."""

from contrastive_jax.methods.base import Method, MethodState
from contrastive_jax.methods.byol import BYOL
from contrastive_jax.methods.cmc import CMC
from contrastive_jax.methods.cpc import CPC
from contrastive_jax.methods.deepcluster import DeepCluster
from contrastive_jax.methods.dictionary import EndToEnd, MemoryBank
from contrastive_jax.methods.dino import DINO
from contrastive_jax.methods.instdis import InstDis
from contrastive_jax.methods.invaspread import InvaSpread
from contrastive_jax.methods.moco import MoCo
from contrastive_jax.methods.mocov3 import MoCoV3
from contrastive_jax.methods.simclr import SimCLR, SimCLRMemory
from contrastive_jax.methods.simsiam import SimSiam
from contrastive_jax.methods.swav import SwAV

METHODS: dict[str, type[Method]] = {
    'moco': MoCo,
    'mocov3': MoCoV3,
    'end_to_end': EndToEnd,
    'memory_bank': MemoryBank,
    'instdis': InstDis,
    'invaspread': InvaSpread,
    'cmc': CMC,
    'byol': BYOL,
    'simsiam': SimSiam,
    'simclr': SimCLR,
    'simclr_memory': SimCLRMemory,
    'dino': DINO,
    'cpc': CPC,
    'swav': SwAV,
    'deepcluster': DeepCluster,
}

__all__ = [
    'BYOL',
    'CMC',
    'CPC',
    'DINO',
    'METHODS',
    'DeepCluster',
    'EndToEnd',
    'InstDis',
    'InvaSpread',
    'MemoryBank',
    'Method',
    'MethodState',
    'MoCo',
    'MoCoV3',
    'SimCLR',
    'SimCLRMemory',
    'SimSiam',
    'SwAV',
]
