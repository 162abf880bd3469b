"""The methods, one file for each family of papers. To add one, see base.py; METHODS maps `method.name` to a class."""

import dataclasses
from typing import Any

from contrastive_jax.errors import UserError
from contrastive_jax.methods.barlow_twins import BarlowTwins
from contrastive_jax.methods.base import Method, MethodState
from contrastive_jax.methods.byol import BYOL
from contrastive_jax.methods.cmc import CMC
from contrastive_jax.methods.colorization import Colorization
from contrastive_jax.methods.context_encoder import ContextEncoder
from contrastive_jax.methods.cpc import CPC
from contrastive_jax.methods.deepcluster import DeepCluster
from contrastive_jax.methods.deepcluster_v1 import DeepClusterV1
from contrastive_jax.methods.denoising import DenoisingAutoencoder
from contrastive_jax.methods.dictionary import EndToEnd, MemoryBank
from contrastive_jax.methods.dino import DINO
from contrastive_jax.methods.exemplar import Exemplar
from contrastive_jax.methods.instdis import InstDis
from contrastive_jax.methods.invaspread import InvaSpread
from contrastive_jax.methods.jigsaw import Jigsaw
from contrastive_jax.methods.moco import MoCo
from contrastive_jax.methods.mocov3 import MoCoV3
from contrastive_jax.methods.nnclr import NNCLR
from contrastive_jax.methods.relative_position import RelativePosition
from contrastive_jax.methods.simclr import SimCLR, SimCLRMemory
from contrastive_jax.methods.simsiam import SimSiam
from contrastive_jax.methods.swav import SwAV
from contrastive_jax.methods.vicreg import VICReg
from contrastive_jax.rules import did_you_mean, import_named

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
    'deepcluster_v1': DeepClusterV1,
    'denoising': DenoisingAutoencoder,
    'context_encoder': ContextEncoder,
    'colorization': Colorization,
    'exemplar': Exemplar,
    'relative_position': RelativePosition,
    'jigsaw': Jigsaw,
    'barlow_twins': BarlowTwins,
    'vicreg': VICReg,
    'nnclr': NNCLR,
}


def find_method(name: str) -> type[Method]:
    """The class of a method by its name: a key of METHODS, or 'package.module:Class'.

    Raises:
      UserError: there is no such method, or the class is no `Method`.
    """
    if name in METHODS:
        return METHODS[name]
    if ':' not in str(name):
        raise UserError(
            f'method.name {name!r} is unknown{did_you_mean(name, METHODS)} -> choose from {", ".join(METHODS)}, or '
            "give a class of your own as 'package.module:Class'"
        )
    found = import_named('method.name', name)
    if not (isinstance(found, type) and issubclass(found, Method) and dataclasses.is_dataclass(found)):
        raise UserError(
            f'method.name {name!r} is no method -> subclass contrastive_jax.methods.Method as a frozen dataclass'
        )
    return found


def method_or_none(name: Any) -> type[Method] | None:
    """As `find_method`, and None where there is no such method."""
    try:
        return find_method(str(name))
    except UserError:
        return None


__all__ = [
    'BYOL',
    'CMC',
    'CPC',
    'DINO',
    'METHODS',
    'NNCLR',
    'BarlowTwins',
    'Colorization',
    'ContextEncoder',
    'DeepCluster',
    'DeepClusterV1',
    'DenoisingAutoencoder',
    'EndToEnd',
    'Exemplar',
    'InstDis',
    'InvaSpread',
    'Jigsaw',
    'MemoryBank',
    'Method',
    'MethodState',
    'MoCo',
    'MoCoV3',
    'RelativePosition',
    'SimCLR',
    'SimCLRMemory',
    'SimSiam',
    'SwAV',
    'VICReg',
    'find_method',
    'method_or_none',
]
