"""What config files import: the base config with a comment on every field, and ':variant' parsing.

`check.py` says what is wrong with a config, `build.py` makes its objects.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.augment.patches import Patches
from contrastive_jax.augment.policy import Policy
from contrastive_jax.errors import UserError
from contrastive_jax.methods import METHODS
from contrastive_jax.models.heads import MLP

Change = Callable[[ConfigDict], None]

DTYPES = ('float32', 'bfloat16')
OPTIMIZERS = ('sgd', 'adam', 'adamw', 'lars', 'lars_simclr', 'larc')
EVALUATORS = ('knn', 'probe', 'signals', 'pictures')
SCHEDULES = ('cosine', 'step', 'warmup_cosine', 'linspace_warmup_cosine', 'constant')


def base_config(method: str) -> ConfigDict:
    """The fields that every config has. A recipe fills in its paper's values.

    Args:
      method: a key of METHODS; its hyper-parameters become the section `method`, with the defaults of its class.
    """
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 256  # global, over all devices of all hosts
    c.epochs = 200.0  # length of training; an epoch drops its last, partial batch
    c.steps = 0  # length in steps instead; 0: from epochs
    c.bn_group_size = 0  # examples that share BN statistics, wherever they lie; 0: the whole global batch
    # Run the networks over the local batch in so many pieces and keep no activations (GradCache): memory of one piece,
    # about a third more time, and the same loss over the whole batch. BN groups have to lie within a piece.
    c.chunks = 1
    c.dtype = 'float32'  # of the computation, or 'bfloat16'; parameters, BN statistics and losses stay float32
    c.parallel = 'jit'  # 'jit': jit(shard_map) over all devices; 'pmap'

    c.log_every_steps = 50
    c.eval_every_steps = 5000  # kNN, linear probe, collapse signals, pictures; 0: only at the end
    c.checkpoint_every_steps = 5000  # and always at the end
    c.profile_steps = 0  # trace this many steps for TensorBoard's profiler, after the first hundred

    c.data = ConfigDict()
    c.data.source = 'tfds'  # 'digits' (embedded), 'npz', 'folder', 'tfds'
    c.data.name = ''  # of the TFDS data set
    c.data.path = ''  # the .npz file, the image folder, or the TFDS data_dir
    c.data.split = 'train'
    c.data.eval_split = 'test'  # 'test', 'validation' and 'val' stand in for each other
    c.data.image_size = 224  # height and width of a view
    c.data.on_device = True  # keep in-memory data on the device, and run many steps in one call
    c.data.workers = 0  # processes that decode images; 0: threads, which serve as well until there are many cores

    c.encoder = encoder_config('resnet50')
    c.projector = ConfigDict()  # `head(...)`
    c.predictor = ConfigDict()  # likewise; empty: none

    c.method = ConfigDict({'name': method})
    for field in dataclasses.fields(METHODS[method]):
        if field.name != 'network':
            c.method[field.name] = field.default

    c.augment = ConfigDict({field.name: field.default for field in dataclasses.fields(Policy)})

    c.optimizer = ConfigDict()
    c.optimizer.name = 'sgd'  # a name of OPTIMIZERS
    c.optimizer.learning_rate = 0.03  # at the batch size below
    c.optimizer.learning_rate_scaling = 'linear'  # x batch_size / learning_rate_batch; 'sqrt': x sqrt(batch_size)
    c.optimizer.learning_rate_batch = 0  # of 'linear'; 0: not scaled
    c.optimizer.momentum = 0.9  # of SGD, LARS and LARC
    c.optimizer.b1, c.optimizer.b2 = 0.9, 0.999  # of Adam and AdamW
    c.optimizer.weight_decay = 1e-4
    c.optimizer.final_weight_decay = -1.0  # moves there on half a cosine, at every step; -1: constant
    c.optimizer.mask = 'none'  # 'matrices': SGD and Adam decay no biases and norms; LARS never does, LARC always
    c.optimizer.clip_norm = 0.0  # of the gradient of every parameter tensor by itself; 0: not clipped
    # Parameter paths, e.g. ('encoder/patch_embed',): everything below them
    c.optimizer.constant = ()  # keep their first learning rate, whatever the schedule
    c.optimizer.rate_factors = ()  # have a learning rate so many times the others': (('projector', 10.0),)
    c.optimizer.freeze = ()  # are never trained
    c.optimizer.freeze_first = ()  # are not trained at first; momentum and weight decay rest too
    c.optimizer.freeze_epochs = 0.0  # for so long
    c.optimizer.freeze_steps = 0  # or for so many steps; 0: from epochs

    c.schedule = ConfigDict()
    # 'cosine' and 'step' change once an epoch, 'warmup_cosine' at every step; 'linspace_warmup_cosine': likewise, but
    # the warm-up ends a step early (SwAV, DINO); 'constant'
    c.schedule.name = 'cosine'
    c.schedule.final = 0.0  # learning rate at the end of a cosine, not scaled with the batch
    c.schedule.warmup_epochs = 0.0  # of 'warmup_cosine' and 'linspace_warmup_cosine'
    c.schedule.warmup_start = 0.0  # learning rate at its first step, not scaled with the batch
    c.schedule.milestones = (120, 160)  # of 'step', in epochs
    c.schedule.factor = 0.1  # of 'step', at each milestone
    c.schedule.factors = ()  # of 'step', instead: times the first learning rate, from each milestone on

    c.eval = ConfigDict()
    # What is measured at each evaluation: names of EVALUATORS, or 'my_package.module:MyEvaluator'
    c.eval.evaluators = EVALUATORS
    c.eval.knn_k = 200  # neighbours; fewer where the data has fewer
    c.eval.knn_temperature = 0.07
    c.eval.max_train = 50_000  # examples in the kNN bank and the probe's training set, evenly spaced
    c.eval.max_test = 10_000
    c.eval.batch_size = 512  # global
    return c


def encoder_config(name: str, **fields: Any) -> ConfigDict:
    """The section `encoder`: a name of models.network.ENCODERS, what users may set, and what the recipe sets.

    Args:
      name: e.g. 'resnet50', 'split_resnet50', 'vit_small'.
      **fields: of the module (models.resnet.ResNet, models.vit.VisionTransformer).
    """
    usual: dict[str, Any] = {'patch_size': 16}
    if name.removeprefix('split_').startswith('resnet'):
        # stem 'cifar': 3x3 without pooling, for images of about 32 pixels; width_multiplier 2 and 4: wider networks
        usual = {'stem': 'imagenet', 'width_multiplier': 1, 'zero_init_residual': False}
    elif name.startswith('cpc'):
        # norm 'layer' or 'none'; an image is cut into overlapping patches
        usual = {'stem': 'imagenet', 'norm': 'layer', 'patch_size': 80, 'patch_stride': 36}
    # remat: recompute activations in the backward pass: less memory, about a third more time
    return ConfigDict({'name': name, **usual, 'remat': False, **fields})


def head_config(num_layers: int, hidden_dim: int, output_dim: int, **fields: Any) -> ConfigDict:
    """The sections `projector` and `predictor`: a models.heads.MLP."""
    names = ('bias', 'batch_norm', 'last_batch_norm', 'last_batch_norm_affine')
    usual = {field.name: field.default for field in dataclasses.fields(MLP) if field.name in names}
    sizes = {'num_layers': num_layers, 'hidden_dim': hidden_dim, 'output_dim': output_dim}
    return ConfigDict({**sizes, **usual, **fields})


def patches_config(encoder: ConfigDict, **fields: Any) -> ConfigDict:
    """The section `augment.patches`, an augment.patches.Patches: images are cut as a CPC encoder cuts them."""
    usual = {field.name: field.default for field in dataclasses.fields(Patches)}
    return ConfigDict({**usual, 'size': encoder.patch_size, 'stride': encoder.patch_stride, **fields})


def apply_variants(config: ConfigDict, argument: str, variants: Mapping[str, Change]) -> ConfigDict:
    """Applies the comma-separated variants of `--config=file.py:small,cifar10`, in order, and locks the fields.

    Args:
      config: the paper's recipe; changed in place.
      argument: what stands behind the colon; may be empty.
      variants: name -> what it changes.

    Raises:
      UserError: an unknown variant.
    """
    for name in filter(None, (argument or '').split(',')):
        if name not in variants:
            near = difflib.get_close_matches(name, variants, n=1)
            meant = f'; did you mean {near[0]!r}?' if near else ''
            raise UserError(f'unknown variant {name!r}{meant} -> choose from {", ".join(variants)}')
        variants[name](config)
    config.lock()
    return config
