"""The errors that `check` finds in a config: each rule alone, all rules at once, and rules of several fields."""

import itertools
import math
from typing import Any

import pytest
from ml_collections import ConfigDict

from contrastive_jax.config.base import base_config, encoder_config, head_config
from contrastive_jax.config.check import check, check_examples
from contrastive_jax.errors import UserError
from contrastive_jax.training.build import build_run
from tests import train_steps

nan, inf = math.nan, math.inf


def change(name: str, **fields: Any) -> ConfigDict:
    """The config of 'file:variants' with changed fields; as in a config file, values may have another type."""
    config = train_steps.load(name).unlock()
    for path, value in fields.items():
        section, _, field = path.rpartition('.')
        holder = config
        for part in filter(None, section.split('.')):
            holder = holder[part]
        with holder.ignore_type():
            holder[field] = ConfigDict(value) if isinstance(value, dict) else value
    return config


def leaves(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    """The fields of nested dictionaries by their paths."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= leaves(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value}
    return found


# ================================ each rule alone ================================

MOCO, SYMMETRIC, VIT = 'mocov2:tiny', 'mocov2:tiny,symmetric', 'mocov3_vit:tiny'
R50, BANK, END = 'mocov3_r50:tiny', 'dictionary:memory_bank,tiny', 'dictionary:end_to_end,tiny'
INSTDIS, INVASPREAD, CMC = 'instdis:tiny', 'invaspread:tiny', 'cmc:tiny'
BYOL, SIMSIAM, DINO = 'byol:tiny', 'simsiam:tiny', 'dino:tiny'
SIMCLR, MEMORY = 'simclr:tiny', 'simclrv2:tiny,memory'
CPC = 'cpc:tiny'
BYOL, SIMSIAM = 'byol:tiny', 'simsiam:tiny'
SWAV, DEEP, DEEP_V1 = 'swav:tiny', 'deepcluster:tiny', 'deepcluster_v1:tiny'
JIGSAW, DENOISING, CONTEXT = 'jigsaw:tiny', 'denoising:tiny', 'context_encoder:center,tiny'
COLORIZATION = 'colorization:tiny'

RULES: list[tuple[str, str, Any, str]] = [
    # batch, devices, length
    (MOCO, 'batch_size', 0, 'batch_size 0 is out of range -> it must be at least 2'),
    (MOCO, 'batch_size', -8, 'batch_size -8 is out of range'),
    (MOCO, 'steps', -1, 'steps -1 is out of range -> it must be at least 0'),
    (MOCO, 'seed', -1, 'seed -1 is out of range'),
    (MOCO, 'seed', 2**31, 'seed 2147483648 is out of range'),
    (MOCO, 'bn_group_size', -1, 'bn_group_size -1 is out of range -> it must be at least 0'),
    (MOCO, 'bn_group_size', 3, 'bn_group_size 3 does not fit 8 devices of 2 examples -> use 2 or 4, or 0 for the w'),
    (MOCO, 'bn_group_size', 6, 'bn_group_size 6 does not fit 8 devices of 2 examples'),
    (MOCO, 'bn_group_size', 32, 'bn_group_size 32 is larger than batch_size 16 -> use 0'),
    (MOCO, 'chunks', 0, 'chunks 0 is out of range -> it must be at least 1'),
    (MOCO, 'chunks', 3, 'chunks 3 does not divide the 2 examples of a device -> use 2'),
    (MOCO, 'chunks', 2, 'bn_group_size 8 does not fit chunks of 1 examples: each would have its own BN'),
    (DINO, 'chunks', 2, 'encoder.drop_path 0.1 draws by the position in the batch -> use 0, or chunks 1'),
    (VIT, 'chunks', 2, 'bn_group_size 0 does not fit chunks of 1 examples'),
    (MOCO, 'keep_every_epochs', -1, 'keep_every_epochs -1 is out of range -> it must be at least 0'),
    (MOCO, 'keep_best', 'loss', "keep_best 'loss' is no metric of an evaluation -> choose from eval/knn_top1, eval/p"),
    (MOCO, 'keep_best', 'eval/knn', "keep_best 'eval/knn': it is not known which values are better; did you mean"),
    (MOCO, 'keep_best_mode', 'best', "keep_best_mode 'best' is unknown -> choose from max, min"),
    (MOCO, 'dtype', 'float16', "dtype 'float16' is unknown; did you mean 'bfloat16'? -> choose from float32, bfloat16"),
    (MOCO, 'parallel', 'pmapp', "parallel 'pmapp' is unknown; did you mean 'pmap'? -> choose from jit, pmap"),
    (MOCO, 'log_every_steps', 0, 'log_every_steps 0 is out of range'),
    (MOCO, 'eval_every_steps', -1, 'eval_every_steps -1 is out of range'),
    (MOCO, 'checkpoint_every_steps', 0, 'checkpoint_every_steps 0 is out of range'),
    (MOCO, 'profile_steps', -1, 'profile_steps -1 is out of range'),
    # data
    (MOCO, 'data.source', 'foldr', "data.source 'foldr' is unknown; did you mean 'folder'?"),
    (MOCO, 'data.image_size', 0, 'data.image_size 0 is out of range'),
    (MOCO, 'data.workers', -1, 'data.workers -1 is out of range'),
    (VIT, 'data.image_size', 10, 'data.image_size 10 % encoder.patch_size 4 = 2 -> use 8 or 12'),
    (VIT, 'data.image_size', 3, 'data.image_size 3 % encoder.patch_size 4 = 3 -> use 4'),
    # encoder and heads
    (MOCO, 'encoder.name', 'resnt50', "encoder.name 'resnt50' is unknown; did you mean 'resnet50'"),
    (MOCO, 'encoder.nmae', 'x', "has no field 'nmae'"),
    (MOCO, 'encoder.depth', 3, "encoder has no field 'depth'"),
    (MOCO, 'encoder.stem', 'imagnet', "stem 'imagnet' is unknown; use imagenet or cifar"),
    (MOCO, 'encoder.width', 0, 'encoder.width 0 is out of range -> it must be at least 1'),
    (MOCO, 'encoder.width_multiplier', -1, 'encoder.width_multiplier -1 is out of range'),
    (VIT, 'encoder.patch_size', 0, 'encoder.patch_size 0 is out of range'),
    (VIT, 'encoder.patch_size', -4, 'encoder.patch_size -4 is out of range'),
    (VIT, 'encoder.depth', 0, 'encoder.depth 0 is out of range'),
    (VIT, 'encoder.num_heads', 3, 'width 16 is not divisible by num_heads 3'),
    (VIT, 'encoder.name', 'vit_conv_small', 'it needs patch_size 16'),
    (MOCO, 'projector', {}, 'projector lacks num_layers, hidden_dim, output_dim'),
    (MOCO, 'projector.num_layers', 0, 'projector.num_layers 0 is out of range'),
    (MOCO, 'projector.hidden_dim', 0, 'projector.hidden_dim 0 is out of range'),
    (MOCO, 'projector.output_dim', -3, 'projector.output_dim -3 is out of range'),
    (MOCO, 'projector.layers', 3, "projector has no field 'layers'"),
    (MOCO, 'predictor', dict(head_config(2, 16, 8)), 'predictor is given, but moco has none'),
    (END, 'predictor', dict(head_config(2, 16, 8)), 'predictor is given, but end_to_end has none'),
    *[(name, 'predictor', {}, f'predictor is empty -> {method} needs one')
      for name, method in ((VIT, 'mocov3'), (BYOL, 'byol'), (SIMSIAM, 'simsiam'))],
    (BYOL, 'predictor.output_dim', 9, 'predictor.output_dim 9 differs from projector.output_dim 8'),
    (VIT, 'predictor.output_dim', 9, 'predictor.output_dim 9 differs from projector.output_dim 8'),
    # method
    (MOCO, 'method.name', 'mocov4', "'mocov4' is unknown; did you mean 'mocov3'? -> choose from moco, mocov3, "),
    *[(name, 'method.temperature', t, f'method.temperature {t!r} is out of range -> it must be above 0')
      for name in (MOCO, VIT, BANK, END, SIMCLR, MEMORY, SWAV, DEEP, INSTDIS, INVASPREAD, CMC)
      for t in (0.0, -0.1, nan, inf)],
    *[(name, 'method.momentum', m, f'method.momentum {m!r} is out of range -> it must be at least 0 and at most 1')
      for name in (MOCO, VIT, BANK, BYOL, MEMORY, INSTDIS, CMC) for m in (-0.1, 1.1, nan)],
    (MOCO, 'method.queue_size', 0, 'method.queue_size 0 is not a positive multiple of the batch size 16 -> use 16'),
    (MOCO, 'method.queue_size', -16, 'is not a positive multiple of the batch size 16 -> use 16'),
    (MOCO, 'method.queue_size', 8, 'is not a positive multiple of the batch size 16 -> use 16'),
    (MOCO, 'method.queue_size', 100, 'is not a positive multiple of the batch size 16 -> use 96 or 112'),
    (SYMMETRIC, 'method.queue_size', 48, 'the batch size 32 (both views of the batch) -> use 32 or 64'),
    ('nnclr:tiny', 'method.queue_size', 40, 'multiple of the batch size 16 -> use 32 or 48'),
    ('vicreg:tiny', 'method.variance', -1.0, 'method.variance'),
    ('barlow_twins:tiny', 'optimizer.bias_rate_factor', 0.0, 'optimizer.bias_rate_factor'),
    (MEMORY, 'method.queue_size', 48, 'the batch size 32 (both views of the batch) -> use 32 or 64'),
    (MEMORY, 'bn_group_size', 4, 'bn_group_size 4 does not divide the 2 examples of a device, as simclr_memory needs'),
    (SIMCLR, 'bn_group_size', 16, 'bn_group_size 16 does not divide the 2 examples of a device, as simclr needs'),
    (SIMCLR, 'bn_group_size', 3, 'bn_group_size 3 does not fit 8 devices of 2 examples'),
    (SIMCLR, 'predictor', dict(head_config(2, 16, 8)), 'predictor is given, but simclr has none'),
    (SIMCLR, 'encoder.padding', 'valid', "padding 'valid' is unknown; use one of torch, same, simclr"),
    (SIMCLR, 'projector.kernel_init', 'zeros', "kernel_init 'zeros' is unknown; use one of torch, normal"),
    (MEMORY, 'encoder.sk_ratio', -0.5, 'sk_ratio -0.5 must be 0, or at most 1 with bottleneck blocks'),
    (MEMORY, 'encoder.block', 'basic', 'sk_ratio 0.0625 must be 0, or at most 1 with bottleneck blocks'),
    (DINO, 'method.output_dim', 1, 'method.output_dim 1 is out of range -> it must be at least 2'),
    (DINO, 'method.teacher_warmup_epochs', -1, 'method.teacher_warmup_epochs -1 is out of range'),
    *[(DINO, f'method.{field}', 0.0, f'method.{field} 0.0 is out of range -> it must be above 0')
      for field in ('student_temperature', 'teacher_temperature', 'warmup_teacher_temperature')],
    (DINO, 'method.momentum', 1.1, 'method.momentum 1.1 is out of range'),
    (DINO, 'method.center_momentum', -0.1, 'method.center_momentum -0.1 is out of range'),
    (DINO, 'predictor', dict(head_config(2, 16, 8)), 'predictor is given, but dino has none'),
    (DINO, 'optimizer.freeze_first', ('last_layers',), "'last_layers' matches no parameter; did you mean 'last_layer"),
    (DINO, 'encoder.drop_path', 1.0, 'ViT drop_path 1.0 is out of range; it must be at least 0'),
    (DINO, 'augment.local_size', 5, 'augment.local_size 5 % encoder.patch_size 2 = 1 -> use 4 or 6'),
    (DINO, 'data.image_size', 7, 'data.image_size 7 % encoder.patch_size 2 = 1 -> use 6 or 8'),
    (VIT, 'encoder.drop_path', 0.1, 'encoder.drop_path 0.1 is given, but mocov3 does not use it -> use 0'),
    (BANK, 'method.num_negatives', 0, 'method.num_negatives 0 is out of range'),
    (BANK, 'method.num_examples', -1, 'method.num_examples -1 is out of range'),
    (CPC, 'method.scale', 0.0, 'method.scale 0.0 is out of range -> it must be above 0'),
    (CPC, 'method.context_blocks', 0, 'method.context_blocks 0 is out of range'),
    (CPC, 'method.context_dim', 0, 'method.context_dim 0 is out of range'),
    (CPC, 'method.candidates', 'all', "method.candidates 'all' is unknown -> choose from global, batch, image"),
    (CPC, 'method.directions', ('down', 'down'), "('down', 'down') has a direction twice -> give each once"),
    (CPC, 'method.directions', (), "method.directions () is empty -> give at least 1, e.g. ('down', "),
    (CPC, 'method.directions', ('north',), "method.directions 'north' is unknown -> choose from down, up, right, left"),
    (CPC, 'method.offsets', (3,), 'method.offsets (3,) do not fit a grid of 3 rows -> use numbers from 1 to 2'),
    (CPC, 'method.offsets', (0, 1), 'method.offsets (0, 1) is out of range -> every number must be at least 1'),
    (CPC, 'method.offsets', (), 'method.offsets () is empty -> give at least 1, e.g. (3,)'),
    (CPC, 'encoder', dict(encoder_config('resnet_tiny')), "'resnet_tiny' encodes whole images -> CPC needs one of"),
    (CPC, 'encoder.patch_stride', 0, 'encoder.patch_stride 0 is out of range'),
    (CPC, 'data.image_size', 9, 'image size 9 is not filled by patches of 4 at stride 2; use 8 or 10'),
    (CPC, 'projector.last_batch_norm', True, 'projector.batch_norm would mix the patches'),
    (CPC, 'predictor', dict(head_config(2, 16, 8)), 'predictor is given, but cpc has none'),
    (CPC, 'augment.patches.stride', 3, 'augment.patches has size 4, stride 3 -> give those of the encoder, 4 and 2'),
    (CPC, 'augment.patches.flip', 1.1, 'augment.patches.flip 1.1 is out of range -> it must be at '),
    (MOCO, 'augment.patches', {'size': 4, 'stride': 2}, 'augment.patches are given, but moco uses whole images'),
    (JIGSAW, 'data.image_size', 20, 'image_size 20 is cut into 4 rows, and jigsaw uses 3 -> use 15'),
    (JIGSAW, 'data.image_size', 16, 'image size 16 is not filled by patches of 5 at stride 5; use 15 or 20'),
    (JIGSAW, 'augment.patches', None, 'augment.patches is empty -> jigsaw needs tiles'),
    (JIGSAW, 'encoder', dict(encoder_config('cpc_tiny')), "'cpc_tiny' does not encode tiles of any size -> jig"),
    (JIGSAW, 'method.num_permutations', 1, 'method.num_permutations 1 is out of range -> it must be at least 2'),
    (DENOISING, 'augment.std', (1.0, 0.5, 1.0), 'moves pixels out of [0, 1], where the cross-entropy is defined'),
    (DENOISING, 'data.image_size', 12, 'image size 12 is not 2, the size of the feature map, times a power of two'),
    (CONTEXT, 'method.overlap', 2, 'overlap 2 leaves nothing to predict in the center of 8 pixels -> use at'),
    (CONTEXT, 'encoder', dict(encoder_config('vit_tiny', patch_size=4)), "'vit_tiny' has no feature map to decode"),
    (COLORIZATION, 'method.stride', 3, 'method.stride 3 does not divide the image size 8 -> use a stride that does'),
    (COLORIZATION, 'encoder.input_channels', 3, 'input_channels 3 shows the encoder the colors that colorization pred'),
    (COLORIZATION, 'augment.mean', (50.0, 6.0, 0.0), "are not those that colorization takes colors from -> use 'lab',"),
    (COLORIZATION, 'method.neighbors', 262, 'method.neighbors 262 is out of range -> it must be at least 1 and at mos'),
    (COLORIZATION, 'data.image_size', 12, 'image size 12 is not 2, the size of the feature map, times a power of two'),
    (DEEP_V1, 'method.pca_dim', 9, 'method.pca_dim 9 is more than projector.output_dim 8 -> use at most 8'),
    (SWAV, 'method.queue_size', -16, 'method.queue_size -16 is not a multiple of the batch size 16 -> use 0 or 16'),
    (SWAV, 'method.queue_size', 40, 'method.queue_size 40 is not a multiple of the batch size 16 -> use 0 or 32 or 48'),
    (SWAV, 'method.queue_from_epoch', -1, 'method.queue_from_epoch -1 is out of range'),
    (SWAV, 'method.num_prototypes', 1, 'method.num_prototypes 1 is out of range -> it must be at least 2'),
    (SWAV, 'method.epsilon', 0.0, 'method.epsilon 0.0 is out of range -> it must be above 0'),
    (SWAV, 'method.iterations', 0, 'method.iterations 0 is out of range'),
    (DEEP, 'method.num_prototypes', (), 'method.num_prototypes () is empty -> give at least 1, e.g. (3000, '),
    (DEEP, 'method.num_prototypes', (5, 1), 'method.num_prototypes (5, 1) is out of range'),
    (DEEP, 'method.kmeans_iterations', 0, 'method.kmeans_iterations 0 is out of range'),
    (DEEP, 'method.num_examples', -1, 'method.num_examples -1 is out of range'),
    *[(name, 'method.num_examples', -1, 'method.num_examples -1 is out of range') for name in (INSTDIS, CMC)],
    *[(name, 'method.num_negatives', -1, 'method.num_negatives -1 is out of range') for name in (INSTDIS, CMC)],
    *[(name, 'method.num_negatives', 0, 'method.num_negatives 0 is the softmax over all examples -> set method.objecti')
      for name in (INSTDIS, CMC)],
    *[(name, 'method.objective', 'nec', "method.objective 'nec' is unknown; did you mean 'nce'? -> choose from nce, so")
      for name in (INSTDIS, CMC)],
    (INSTDIS, 'method.proximal', -1.0, 'method.proximal -1.0 is out of range -> it must be at least 0'),
    (INVASPREAD, 'bn_group_size', 4, 'bn_group_size 4 does not divide the 2 examples of a device, as invaspread needs'),
    (CMC, 'encoder.name', 'resnet_tiny', "encoder.name 'resnet_tiny' is not a split encoder -> cmc needs one"),
    (MOCO, 'encoder.name', 'split_resnet_tiny', "'split_resnet_tiny' is a split encoder, which moco does not use"),
    # augmentation
    (MOCO, 'augment.crop_scale', (0.2,), 'augment.crop_scale (0.2,): a tuple of 2 numbers is needed -> e.g. (0.2, '),
    (MOCO, 'augment.crop_scale', (1.0, 0.2), 'augment.crop_scale is (1.0, 0.2) -> give the smaller number first'),
    (MOCO, 'augment.crop_scale', (0.2, 1.5), 'crop_scale (0.2, 1.5) is out of range -> every number must be above 0 a'),
    (MOCO, 'augment.crop_scale', (nan, 1.0), 'augment.crop_scale (nan, 1.0) is out of range -> every number'),
    (MOCO, 'augment.crop_ratio', (1.0, 1.0, 1.0), 'augment.crop_ratio (1.0, 1.0, 1.0): a tuple of 2 numbers is needed'),
    (MOCO, 'augment.jitter', (0.4, 0.4, 0.4), 'augment.jitter (0.4, 0.4, 0.4): a tuple of 4 numbers is needed'),
    (MOCO, 'augment.jitter', (0.4, 0.4, 0.4, 0.6), 'give a hue, the fourth strength, of at most 0.5'),
    (MOCO, 'augment.jitter_probability', 1.1, 'jitter_probability 1.1 is out of range -> it must be at least 0 and'),
    (MOCO, 'augment.flip', nan, 'augment.flip nan is out of range -> it must be at least 0 and at most 1'),
    (MOCO, 'augment.grayscale', -0.1, 'augment.grayscale -0.1 is out of range'),
    (MOCO, 'augment.blur', (), 'augment.blur () is empty -> give at least 1, e.g. (0.5, 0.5)'),
    (MOCO, 'augment.blur_sigma', (0.0, 2.0), 'augment.blur_sigma (0.0, 2.0) is out of range'),
    (MOCO, 'augment.solarize', (0.0,), 'augment.solarize is (0.0,) -> give as many probabilities as augment.blur has'),
    (MOCO, 'augment.interpolation', 'lanczos', "augment.interpolation 'lanczos' is unknown -> choose from"),
    (MOCO, 'augment.mean', (124.0, 116.0, 104.0), 'divide 8-bit levels by 255'),
    (MOCO, 'augment.std', (0.2, 0.2), 'augment.std is (0.2, 0.2) -> give as many as augment.mean has, which is (0.485'),
    # optimizer and schedule
    (MOCO, 'optimizer.name', 'adamv', "optimizer.name 'adamv' is unknown; did you mean 'adam'?"),
    (MOCO, 'optimizer.learning_rate_scaling', 'log', "learning_rate_scaling 'log' is unknown -> choose from linear, "),
    (MOCO, 'optimizer.learning_rate', 0.0, 'optimizer.learning_rate 0.0 is out of range -> it must be above 0'),
    (MOCO, 'optimizer.learning_rate', -0.1, 'optimizer.learning_rate -0.1 is out of range'),
    (MOCO, 'optimizer.learning_rate', nan, 'optimizer.learning_rate nan is out of range'),
    (MOCO, 'optimizer.learning_rate_batch', -1, 'optimizer.learning_rate_batch -1 is out of range'),
    (MOCO, 'optimizer.momentum', 1.1, 'optimizer.momentum 1.1 is out of range'),
    *[(VIT, f'optimizer.{b}', x, f'optimizer.{b} {x!r} is out of range')
      for b in ('b1', 'b2') for x in (-0.1, 1.0, nan)],
    (MOCO, 'optimizer.weight_decay', -1e-4, 'optimizer.weight_decay -0.0001 is out of range'),
    (MOCO, 'optimizer.final_weight_decay', -0.4, 'optimizer.final_weight_decay -0.4 is out of range'),
    (MOCO, 'optimizer.mask', 'matrix', "optimizer.mask 'matrix' is unknown; did you mean 'matrices'?"),
    (R50, 'optimizer.mask', 'matrices', "optimizer.mask 'matrices' is of SGD and Adam, not of lars -> use none"),
    (MOCO, 'optimizer.clip_norm', -1.0, 'optimizer.clip_norm -1.0 is out of range'),
    (MOCO, 'optimizer.freeze_epochs', -1.0, 'optimizer.freeze_epochs -1.0 is out of range'),
    (MOCO, 'optimizer.freeze_steps', -1, 'optimizer.freeze_steps -1 is out of range'),
    (MOCO, 'optimizer.freeze_first', ('prototypes',), "optimizer.freeze_first 'prototypes' matches no parameter"),
    *[
        (MOCO, 'optimizer.rate_factors', factors, "e.g. (('projector', 10.0),)")
        for factors in (('projector', 2.0), (('projector', 0.0),), (('projector', nan),), ((1.0, 'projector'),))
    ],
    (MOCO, 'optimizer.rate_factors', (('projecter', 2.0),), "rate_factors 'projecter' matches no parameter; did you"),
    (MOCO, 'optimizer.constant', ('projecter',), "optimizer.constant 'projecter' matches no parameter; did you mean"),
    (VIT, 'optimizer.freeze', ('encoder/patch_embd',), "'encoder/patch_embd' matches no parameter; did you mean"),
    (VIT, 'optimizer.freeze', ('encoder/patch_embed/',), "did you mean 'encoder/patch_embed'?"),
    (VIT, 'optimizer.freeze', ('patch_embed',), "optimizer.freeze 'patch_embed' matches no parameter"),
    (VIT, 'optimizer.freeze', ('encoder/patch', ), "optimizer.freeze 'encoder/patch' matches no parameter"),
    (MOCO, 'optimizer.freeze', ('encoder/patch_embed',), "optimizer.freeze 'encoder/patch_embed' matches no parameter"),
    (MOCO, 'schedule.name', 'cosin', "schedule.name 'cosin' is unknown; did you mean 'cosine'?"),
    (MOCO, 'schedule.warmup_epochs', -1.0, 'schedule.warmup_epochs -1.0 is out of range'),
    (MOCO, 'schedule.factor', 0.0, 'schedule.factor 0.0 is out of range'),
    (MOCO, 'schedule.milestones', (120, -1), 'schedule.milestones (120, -1) is out of range'),
    (MOCO, 'schedule.factors', (0.1, 0.0), 'schedule.factors (0.1, 0.0) is out of range -> every number must be '),
    (MOCO, 'schedule.factors', (0.1,), 'schedule.factors has 1 values for 2 milestones -> give as many, or none'),
    (MOCO, 'schedule.final', -1e-6, 'schedule.final -1e-06 is out of range'),
    (MOCO, 'schedule.warmup_start', nan, 'schedule.warmup_start nan is out of range'),
    # evaluation
    (MOCO, 'eval.knn_k', 0, 'eval.knn_k 0 is out of range'),
    (MOCO, 'eval.knn_temperature', 0.0, 'eval.knn_temperature 0.0 is out of range'),
    (MOCO, 'eval.knn_temperature', 0.001, 'eval.knn_temperature 0.001 is out of range -> it must be at least 0.012'),
    (MOCO, 'eval.max_train', 0, 'eval.max_train 0 is out of range'),
    (MOCO, 'eval.max_test', -1, 'eval.max_test -1 is out of range'),
    (MOCO, 'eval.batch_size', 0, 'eval.batch_size 0 is out of range'),
]  # fmt: skip


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize(('name', 'field', 'value', 'line'), RULES, ids=lambda x: str(x)[:24])
def test_each_rule_is_one_line(name: str, field: str, value: Any, line: str) -> None:
    found = check(change(name, **{field: value}), 8)
    assert any(line in given for given in found), found
    # The batch size also decides the queue, and blur the number of views.
    more = (
        1
        if field in ('augment.blur', 'augment.solarize') or (field, value) == ('encoder.name', 'vit_conv_small')
        else 0
    )
    assert len(found) <= 1 + more, found
    assert all('\n' not in given and ('->' in given or ':' in given or ';' in given) for given in found)


def test_all_rules_at_once() -> None:
    chosen: dict[str, Any] = {}
    for name, field, value, line in RULES:
        if name == MOCO and ' is needed' not in line:  # values of another type: see below
            chosen.setdefault(field, value)
    # These are errors only if the encoder, the batch size or the section is otherwise right.
    aside = ('predictor', 'projector', 'encoder.name', 'encoder.nmae', 'encoder.depth', 'encoder.stem', 'method.name')
    for field in (
        *aside,
        'projector.layers',
        'augment.solarize',
        'bn_group_size',
        'method.queue_size',
        'optimizer.freeze',
        'optimizer.freeze_first',
        'optimizer.constant',
    ):
        del chosen[field]
    found = check(change(MOCO, **chosen), 8)
    assert sorted(line.split()[0] for line in found) == sorted(chosen)


def test_encoder_and_heads_are_checked_separately() -> None:
    fields = {'encoder.name': 'vit', 'projector': {}, 'predictor.layers': 3}
    found = [line.split()[0] for line in check(change(VIT, **fields), 8)]
    assert sorted(found) == ['encoder.name', 'predictor', 'projector']


# ================================ values of another type ================================


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize('name', [MOCO, VIT, DINO, CPC, INSTDIS, DEEP])
def test_a_value_of_another_type_is_one_line(name: str) -> None:
    """Every field of a config with values of other types, as a config file may set them, gives one line each."""
    config = train_steps.load(name).to_dict()
    fields = {field: value for field, value in leaves(config).items() if field != 'augment.patches'}
    if name != MOCO:  # what differs between configs
        sections = ('encoder.', 'method.', 'predictor.', 'augment.patches.')
        fields = {field: value for field, value in fields.items() if field.startswith(sections)}
    for field, value in fields.items():
        others: list[Any] = [{'a': 1}, object]
        if isinstance(value, bool):
            others += ['x', 1, 1.0, (True,)]
        elif isinstance(value, int | float):
            # A ConfigDict turns True into 1.0 where a number with a fraction was.
            others += ['x', None, (value,), [], *([1.5, '8', True] if isinstance(value, int) else [])]
        elif isinstance(value, str):
            others += [3, True, (value,)]
        elif value is not None:
            others += ['abc', None, 5, ({},), (None,), [[]]]
            others += [(3,)] if all(isinstance(x, str) for x in value) and value else [('abc',)] * (value != ())
        for other in others:
            found = check(change(name, **{field: other}), 8)
            assert len(found) == 1 and found[0].field == field, (field, other, found)
            assert found[0].startswith(f'{field} ') and ' is needed -> ' in found[0] and '\n' not in found[0]


def test_a_value_of_another_type_hides_no_range() -> None:
    found = check(change(MOCO, **{'steps': None, 'seed': -1, 'encoder.stem': 3, 'schedule.factors': 'x'}), 8)
    assert [line.field for line in found] == ['seed', 'steps', 'encoder.stem', 'schedule.factors']


def test_a_field_that_does_not_exist() -> None:
    for field in ('method.temprature', 'augment.jiter', 'optimizer.momentm', 'data.nam', 'eval.kn_k'):
        (line,) = check(change(MOCO, **{field: 1}), 8)
        section, _, name = field.partition('.')
        assert line.startswith(f'{section} has no field {name!r}; did you mean ') and line.field == field


# ================================ rules of several fields ================================


@pytest.mark.parametrize(('batch', 'devices', 'proposed'), [(30, 8, 32), (4, 8, 8), (100, 64, 64), (7, 2, 8)])
def test_one_batch_size_that_fits_the_queue_too_is_named(batch: int, devices: int, proposed: int) -> None:
    config = change(MOCO, batch_size=batch, bn_group_size=0)
    (line,) = check(config, devices)
    assert line == f'batch_size {batch} is not divisible by {devices} devices -> use {proposed}'
    assert (line.field, line.remedy, line.value) == ('batch_size', f'use {proposed}', proposed)
    assert check(change(MOCO, batch_size=proposed, bn_group_size=0), devices) == []


@pytest.mark.parametrize('name', [MOCO, SYMMETRIC, MEMORY, SWAV, DEEP, SIMCLR])
def test_all_remedies_together_give_a_legal_config(name: str) -> None:
    """On 3 devices no batch size fits a queue of 64 and batch-norm groups of 8: the remedies agree with each other."""
    for devices, fields in ((3, {}), (5, {'batch_size': 7}), (8, {'batch_size': 30, 'bn_group_size': 3}), (6, {})):
        config = change(name, **fields)
        for problem in (found := check(config, devices)):
            config.update_from_flattened_dict({problem.field: problem.value})
        assert check(config, devices) == [], (found, config)
        assert len(found) >= 1 and found[0].field == 'batch_size'


def test_the_proposed_queue_sizes_are_right() -> None:
    for name, size in ((MOCO, -40), (MOCO, 0), (MOCO, 17), (SYMMETRIC, 1), (SYMMETRIC, 100)):
        (line,) = check(change(name, **{'method.queue_size': size}), 8)
        for proposed in map(int, line.split('-> use ')[1].split(' or ')):
            assert proposed > 0 and check(change(name, **{'method.queue_size': proposed}), 8) == []


@pytest.mark.parametrize('devices', [1, 2, 4, 8])
def test_bn_groups_that_fill_the_devices(devices: int) -> None:
    """By brute force: a group lies within one device, or consists of whole devices."""
    batch, local = 16, 16 // devices
    for group in (1, 2, 3, 4, 6, 8, 12, 16):
        fits = (local % group == 0) if group <= local else (group % local == 0 and batch % group == 0)
        found = check(change(MOCO, bn_group_size=group), devices)
        assert (found == []) == fits, (group, found)


def test_chunks_divide_the_batch_and_hold_the_bn_groups() -> None:
    for local, chunks, nearest in ((12, 5, '4 or 6'), (12, 7, '6 or 12'), (12, 24, '12'), (7, 2, '1 or 7')):
        (line,) = check(change(VIT, batch_size=8 * local, chunks=chunks), 8)
        assert line == f'chunks {chunks} does not divide the {local} examples of a device -> use {nearest}'
    for devices, group, fits in ((1, 2, True), (1, 4, True), (1, 8, False), (1, 0, False), (2, 2, True), (2, 4, False)):
        found = check(change(MOCO, chunks=4, bn_group_size=group), devices)
        assert (found == []) == fits, (devices, group, found)
    no_norm = {'projector.batch_norm': False, 'projector.last_batch_norm': False}
    no_norm |= {name.replace('projector', 'predictor'): value for name, value in no_norm.items()}
    assert check(change(VIT, chunks=2, **no_norm), 8) == [], 'without BN there is nothing to fit'


def test_the_evaluation_batch_is_divisible_by_the_hosts() -> None:
    config = change(MOCO, **{'eval.batch_size': 7})
    assert check(config, 8) == [], 'the extractor rounds up to the devices'
    assert check(config, 8, processes=2) == ['eval.batch_size 7 is not divisible by 2 hosts -> use 8']


def test_length_of_training() -> None:
    for epochs in (0.0, -1.0):
        (line,) = check(change(MOCO, steps=0, epochs=epochs), 8)
        assert line == f'epochs {epochs!r} is out of range -> it must be above 0'
        assert check(change(MOCO, steps=3, epochs=epochs), 8) == [], 'steps count then'
    for epochs, steps in itertools.product((nan, inf, -inf), (0, 3)):
        (line,) = check(change(MOCO, steps=steps, epochs=epochs), 8)
        assert line == f'epochs {epochs!r} is out of range -> it must be finite'
    assert len(check(change(MOCO, steps=-1, epochs=0.0), 8)) == 2
    per_epoch = 1437 // 16
    for fields, steps in (({'steps': 7}, 7), ({'steps': 0, 'epochs': 0.5}, 45), ({'steps': 0, 'epochs': 1e-9}, 1)):
        assert build_run(change(MOCO, **fields), 1437).total_steps == steps
    assert build_run(change(MOCO, steps=0, epochs=3.0), 1437).total_steps == 3 * per_epoch


def test_a_warm_up_longer_than_the_training() -> None:
    fields = {'schedule.warmup_epochs': 3.0, 'epochs': 2.0, 'steps': 0}
    (line,) = check(change(VIT, **fields), 8)
    assert line.startswith('schedule.warmup_epochs 3 is longer than the training of 2 epochs')
    # In steps, it takes the size of the data to tell.
    config = change(VIT, **{**fields, 'steps': 200})
    assert check(config, 8) == []
    (line,) = check(config, 8, num_examples=1437)
    assert line.startswith('schedule.warmup_epochs 3 are 267 steps, longer than the training of 200 -> ')
    assert (line.field, line.value) == ('schedule.warmup_epochs', 0.0)
    config.steps = 267
    assert check(config, 8, num_examples=1437) == [] and build_run(config, 1437).total_steps == 267
    assert check(change(MOCO, **fields), 8, num_examples=1437) == [], 'another schedule has no warm-up'


def test_a_bank_has_a_row_for_every_example() -> None:
    assert build_run(change(BANK), 1437).method.num_examples == 1437
    assert build_run(change(BANK, **{'method.num_examples': 1500}), 1437).method.num_examples == 1500
    (line,) = check(change(BANK, **{'method.num_examples': 10}), 8, num_examples=1437)
    assert line == 'method.num_examples 10 is less than the 1437 images of the data -> use 0, for as many as there are'
    assert (line.field, line.value) == ('method.num_examples', 0)


def test_no_more_clusters_than_images() -> None:
    config = change(DEEP, **{'method.num_prototypes': (12, 33)})
    (line,) = check(config, 8, num_examples=40)
    assert line.startswith('method.num_prototypes 33 is more than the 32 images of an epoch, which cannot have so many')
    assert line.value == (12, 32)
    assert check(config, 8, num_examples=48) == [] and build_run(config, 48).method.num_examples == 48


def test_fewer_images_than_a_batch() -> None:
    (line,) = check(change(MOCO), 8, num_examples=15)
    assert line == '15 images are fewer than batch_size 16 -> use more images, or a batch_size of at most 15'
    assert (line.field, line.value) == ('batch_size', 8), 'the devices divide it'
    assert check(change(MOCO), 8, num_examples=7)[0].value is None, 'no batch size does'
    assert check(change(MOCO), 8, num_examples=16) == []


@pytest.mark.parametrize('name', [MOCO, VIT, BANK, SWAV, DEEP, INSTDIS, CMC, DINO, SIMCLR])
def test_a_config_without_problems_can_be_built(name: str) -> None:
    """`check` finds all that `build_run` cannot build, on any number of images."""
    for changes in ({}, {'steps': 3, 'schedule.warmup_epochs': 2.0}, {'method.num_examples': 20}, {'batch_size': 32}):
        if 'method.num_examples' in changes and 'num_examples' not in train_steps.load(name).method:
            continue
        config = change(name, **changes)
        for n in (1, 15, 16, 17, 33, 64, 1000):
            if problems := check_examples(config, n):
                with pytest.raises((AssertionError, UserError)):
                    build_run(config, n)
                assert all(' -> ' in line and line.field for line in problems)
            else:
                assert build_run(config, n).total_steps > 0


def test_a_batch_of_one_image_is_refused() -> None:
    """It has no negatives and no variance: losses would be 0 or NaN."""
    (line,) = check(train_steps.load('simclr:tiny', batch_size=1), 1)
    assert line.startswith('batch_size 1 is out of range -> it must be at least 2')


@pytest.mark.parametrize('views', [1, 3])
def test_methods_compare_two_views(views: int) -> None:
    fields = {'augment.blur': (0.5,) * views, 'augment.solarize': (0.0,) * views}
    for name in (MOCO, SYMMETRIC, VIT, END, INVASPREAD, BYOL, SIMSIAM):
        (line,) = check(change(name, **fields), 8)
        assert line.startswith(f'augment.blur has {views} views, ') and ' uses 2 -> ' in line
    for name in (BANK, INSTDIS, CMC):
        assert (check(change(name, **fields), 8) == []) == (views == 1), 'a bank needs one'


def test_local_views_only_where_a_method_has_use_for_them() -> None:
    (line,) = check(change(MOCO, **{'augment.local_crops': 2}), 8)
    assert line == 'augment.local_crops 2 are given, but moco does not use local views -> use 0'
    found = check(change(VIT, **{'augment.local_crops': 2, 'augment.local_size': 6}), 8)
    assert 'augment.local_size 6 % encoder.patch_size 4 = 2 -> use 4 or 8' in found


def test_paths_of_frozen_parameters() -> None:
    for freeze in (('encoder/patch_embed',), ('encoder',), ('encoder/blocks_0/attn', 'projector/linear_0/kernel'), ()):
        assert check(change(VIT, **{'optimizer.freeze': freeze}), 8) == []
    found = check(change(VIT, **{'optimizer.freeze': ('encoder', 'encodr', 'x')}), 8)
    assert [line.split()[1] for line in found] == ["'encodr'", "'x'"]


def test_a_config_that_is_not_made_from_the_base() -> None:
    (line,) = check(ConfigDict({'batch_size': 8, 'data': {'source': 'digits'}, 'encoder': 3}), 8)
    assert line.startswith('the config lacks ') and 'steps' in line and 'data.name' in line and 'encoder,' in line
    assert 'batch_size' not in line and 'data.source' not in line
    for name, value in base_config('moco').items():
        if name == 'auto':  # configs of older versions do not have it: nothing is chosen for them
            continue
        config = train_steps.load(MOCO).unlock()
        del config[name]
        assert check(config, 8)[0].startswith(f'the config lacks {name} -> start from config.base.base_config'), value
