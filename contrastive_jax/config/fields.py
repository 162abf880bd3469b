"""The fields of a config, each declared once: type, default, meaning and legal values.

The top level and the sections `data`, `optimizer`, `schedule` and `eval` are declared here. The other sections are
declared by the class that they are passed to: `augment` by `augment.policy.Policy`, `method` by the method's class,
`encoder`, `projector` and `predictor` by the module of that name.
"""

import dataclasses

from ml_collections import ConfigDict

from contrastive_jax.augment.patches import Patches
from contrastive_jax.augment.policy import MAX_CHANNELS, Policy
from contrastive_jax.data.open import SOURCES
from contrastive_jax.evaluate.knn import MIN_TEMPERATURE
from contrastive_jax.methods import method_or_none
from contrastive_jax.models.heads import MLP
from contrastive_jax.models.network import encoder_class_or_none
from contrastive_jax.rules import field
from contrastive_jax.workdir.trackers import NAMES as TRACKERS

MAX_BATCH = 2**31 - 1  # examples and steps are numbered by int32
DTYPES = ('float32', 'bfloat16')
OPTIMIZERS = ('sgd', 'adam', 'adamw', 'lars', 'lars_simclr', 'larc')
EVALUATORS = ('knn', 'probe', 'signals', 'pictures')
SCHEDULES = ('cosine', 'step', 'warmup_cosine', 'linspace_warmup_cosine', 'constant')


@dataclasses.dataclass(frozen=True)
class Training:
    """The top level of a config."""

    seed: int = field(
        0, 'Seed of the first weights, the order of the examples and the augmentation.', least=0, most=2**31 - 1
    )
    seeds: tuple[int, ...] = field(
        (),
        'Several runs in one program, one with each of these seeds, in workdirs of their own (training/group.py); (): '
        'one run, with `seed`.',
        least=0,
        most=2**31 - 1,
        example=(0, 1, 2),
    )
    learning_rates: tuple[float, ...] = field(
        (), 'Likewise with each `optimizer.learning_rate`, and with each seed.', above=0, example=(0.03, 0.1)
    )
    temperatures: tuple[float, ...] = field((), 'Likewise with each `method.temperature`.', above=0, example=(0.1, 0.2))
    init: str = field(
        '',
        'Weights that the encoder starts from: the workdir of a run, a file of weights, or a published checkpoint; '
        "'': new ones.",
    )
    init_channels: str = field(
        '',
        "What `init` does with weights for RGB where the data has other channels: 'repeat' gives the first convolution "
        "their inputs in turn, times 3 / channels, and for one channel their sum, as timm does; '': they are refused.",
        choices=('repeat',),
        empty=True,
    )
    # A batch of one image has no negatives and no variance: most losses would be 0 or NaN.
    batch_size: int = field(256, 'Global batch size, over all devices of all hosts.', least=2, most=MAX_BATCH)
    epochs: float = field(
        200.0, 'Length of the training, above 0. An epoch has as many steps as there are full batches.'
    )  # no `above=0`: it is not used if `steps` is given
    steps: int = field(0, 'Length of the training in steps; 0: `epochs` gives the length.', least=0, most=MAX_BATCH)
    bn_group_size: int = field(
        0, 'Examples that share batch-norm statistics, on one device or several; 0: the whole global batch.', least=0
    )
    chunks: int = field(
        1,
        'Process the local batch in so many pieces, and recompute their activations in the backward pass (GradCache): '
        'the memory of one piece and about a third more time, with the same loss over the whole batch. Batch-norm '
        'groups must lie within a piece.',
        least=1,
    )
    dtype: str = field(
        'float32', 'Type of the computation; parameters, batch-norm statistics and losses stay float32.', choices=DTYPES
    )
    parallel: str = field('jit', 'How all devices are used: jit(shard_map), or pmap.', choices=('jit', 'pmap'))
    log_every_steps: int = field(50, 'Steps between two lines of the log.', least=1)
    eval_every_steps: int = field(
        5000,
        'Steps between two evaluations: kNN, linear probe, collapse signals, pictures; 0: only at the end.',
        least=0,
    )
    checkpoint_every_steps: int = field(5000, 'Steps between two checkpoints; there is always one at the end.', least=1)
    checkpoint_every_minutes: float = field(
        0.0, 'Further checkpoints, at log lines, after so many minutes without one; 0: none.', least=0
    )
    keep_every_epochs: int = field(
        0,
        'The checkpoint at the end of every so many epochs is never deleted; 0: only the newest two are kept.',
        least=0,
    )
    keep_best: str = field(
        '', "The checkpoint with the best value of this metric is kept, such as 'eval/knn_top1'; '': none."
    )
    keep_best_mode: str = field(
        '',
        "Which values of `keep_best` are better: 'max', the highest, or 'min', the lowest; '': as is known of the "
        'metrics of our evaluators. It must be given for a metric of your own.',
        choices=('max', 'min'),
        empty=True,
    )
    trackers: tuple[str, ...] = field(
        (),
        'Services that show metrics and pictures, beside metrics.jsonl and TensorBoard.',
        choices=TRACKERS,
        example=('wandb',),
    )
    tracker_project: str = field(
        'contrastive_jax', 'The project of W&B and trackio, and the experiment of MLflow, that a run belongs to.'
    )
    max_dropped_in_row: int = field(
        5,
        'A step in which a value is not finite changes nothing; after so many of these steps in a row the run stops.',
        least=1,
    )
    profile_steps: int = field(
        0, "Record so many steps for TensorBoard's profiler, after the first hundred; 0: none.", least=0
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """The section `data`."""

    source: str = field(
        'tfds',
        "Kind of the data: 'digits' (embedded in scikit-learn), 'npz' (a file), 'folder' (of images), 'tfds', "
        "'huggingface' (saved by datasets), 'parquet', 'webdataset' (tar files), 'array_record', or a class of your "
        "own, 'package.module:Class' (data/objects.py).",
        choices=SOURCES,
        named=True,
    )
    name: str = field('', 'Name of the TFDS data set.')
    path: str = field('', "The file or folder of the data, or a pattern of files; TFDS's data_dir.")
    image_key: str = field(
        '', 'Column of the images in huggingface and parquet data, their ending in webdataset data; empty: found.'
    )
    label_key: str = field(
        '',
        'Column of the labels in huggingface and parquet data; in webdataset data the ending of the labels, or their '
        'key in .json files; empty: found.',
    )
    split: str = field('train', "The split that is trained on; also slices and sums: 'train[:90%]+validation'.")
    eval_split: str = field(
        'test', "The split that is evaluated on; 'test' and 'validation' replace each other, a labeled one first."
    )
    image_size: int = field(224, 'Height and width of a view, in pixels.', least=1, most=1 << 14)
    value_range: float = field(
        0.0,
        'The value that is white in images of more than 8 bits, such as 4095. 0: of gray image files, derived from a '
        'sample of the images; 65535 for uint16 arrays; arrays of other numbers need it.',
        least=0,
    )
    channels: int = field(
        3,
        'Channels of the images, mostly 3, RGB. It is derived from the data unless it is given; 1 keeps gray images '
        'gray, which otherwise become RGB.',
        least=1,
        most=MAX_CHANNELS,
    )
    on_device: bool = field(True, 'Keep data that is in memory on the device, and run many steps in one call.')
    workers: int = field(
        0, 'Processes that decode images; 0: threads, which are as fast unless there are many cores.', least=0
    )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The section `optimizer`. Paths are those of parameters, such as 'encoder/patch_embed': all below it."""

    name: str = field('sgd', 'The optimizer.', choices=OPTIMIZERS)
    learning_rate: float = field(0.03, 'Learning rate at the batch size `learning_rate_batch`.', above=0)
    learning_rate_scaling: str = field(
        'linear',
        "The learning rate is multiplied by: 'linear', batch_size / learning_rate_batch; 'sqrt', sqrt(batch_size).",
        choices=('linear', 'sqrt'),
    )
    learning_rate_batch: int = field(0, "The batch size of the scaling 'linear'; 0: the rate is not scaled.", least=0)
    momentum: float = field(0.9, 'Momentum of SGD, LARS and LARC.', least=0, most=1)
    b1: float = field(0.9, "Decay of Adam's and AdamW's mean of the gradients.", least=0, below=1)
    b2: float = field(0.999, "Decay of Adam's and AdamW's mean of their squares.", least=0, below=1)
    weight_decay: float = field(1e-4, 'Weight decay.', least=0)
    final_weight_decay: float = field(
        -1.0,
        'Weight decay at the end: it changes at every step, on half a cosine; -1: it is constant.',
        least=0,
        also=-1,
    )
    mask: str = field(
        'none',
        "Which parameters decay with SGD and Adam: 'none', all; 'matrices', no biases and norms. LARS never decays "
        'those, LARC always does.',
        choices=('none', 'matrices'),
    )
    clip_norm: float = field(0.0, 'Greatest norm of the gradient of each parameter; 0: it is not clipped.', least=0)
    constant: tuple[str, ...] = field(
        (), 'Paths whose learning rate stays as at the start, whatever the schedule.', example=('predictor',)
    )
    rate_factors: tuple[tuple[str, float], ...] = field(
        (), 'Paths whose learning rate is so many times that of the others.', above=0, example=(('projector', 10.0),)
    )
    bias_rate_factor: float = field(
        1.0,
        'The learning rate of biases, and of scales and offsets of norms, is so many times that of the weights.',
        above=0,
    )
    freeze: tuple[str, ...] = field((), 'Paths that are never trained.', example=('encoder/patch_embed',))
    freeze_first: tuple[str, ...] = field(
        (),
        'Paths that are not trained at first; their momentum, weight decay and step count do not advance either.',
        example=('prototypes',),
    )
    freeze_epochs: float = field(0.0, 'How long `freeze_first` holds, in epochs.', least=0)
    freeze_steps: int = field(0, 'How long `freeze_first` holds, in steps; 0: `freeze_epochs` counts.', least=0)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The section `schedule`, of the learning rate."""

    name: str = field(
        'cosine',
        "'cosine' and 'step' change once an epoch, 'warmup_cosine' at every step; 'linspace_warmup_cosine' also, with "
        "a warm-up that is one step shorter (SwAV, DINO); 'constant'.",
        choices=SCHEDULES,
    )
    final: float = field(0.0, 'Learning rate at the end of a cosine; not scaled with the batch.', least=0)
    warmup_epochs: float = field(0.0, "Warm-up of 'warmup_cosine' and 'linspace_warmup_cosine', in epochs.", least=0)
    warmup_start: float = field(
        0.0, 'Learning rate at the first step of a warm-up; not scaled with the batch.', least=0
    )
    milestones: tuple[float, ...] = field((120, 160), "Epochs at which 'step' changes.", above=0, example=(120, 160))
    factor: float = field(0.1, "What 'step' multiplies the learning rate by at each milestone.", above=0, most=1)
    factors: tuple[float, ...] = field(
        (),
        "Instead of `factor`: what 'step' multiplies the first learning rate by, from each milestone on.",
        above=0,
        example=(0.1, 0.01),
    )


@dataclasses.dataclass(frozen=True)
class Eval:
    """The section `eval`: the evaluations during the training."""

    evaluators: tuple[str, ...] = field(
        EVALUATORS,
        "What is measured and drawn, or classes of your own, 'package.module:Class' (training/evaluators.py).",
        choices=EVALUATORS,
        named=True,
    )
    knn_k: int = field(200, 'Neighbors that vote; fewer if the data has fewer.', least=1, most=2**31 - 1)
    knn_temperature: float = field(
        0.07, "Temperature of the votes: a neighbor's weight is exp(cosine / temperature).", least=MIN_TEMPERATURE
    )
    max_train: int = field(
        50_000, 'Most training images for the kNN and the linear probe, evenly spaced in the data.', least=1
    )
    max_test: int = field(10_000, 'Most held-out images, evenly spaced.', least=1)
    batch_size: int = field(512, 'Images at a time, over all devices.', least=1)


# What follows from the number of channels: saturation, hue and gray are those of RGB (config/choose_channels.py).
OF_CHANNELS = (
    'data.channels', 'augment.mean', 'augment.std', 'augment.jitter', 'augment.grayscale',
    'augment.patches.jitter', 'augment.patches.grayscale', 'augment.patches.color_drop',
)  # fmt: skip

# How often a run does what it does besides training.
CADENCES = ('log_every_steps', 'eval_every_steps', 'checkpoint_every_steps', 'checkpoint_every_minutes')


@dataclasses.dataclass(frozen=True)
class Auto:
    """The section `auto`: what is chosen by the data and the machine (config/choose.py, docs/own-data.md)."""

    fields: tuple[str, ...] = field(
        (*CADENCES, *OF_CHANNELS),
        'Fields that are chosen when a run begins; one that the command line sets is taken out. (): none. In the '
        'config of a run: those that were chosen.',
        example=('data.image_size', 'batch_size'),
    )
    reference_batch: int = field(
        0,
        "The recipe's batch size, from which the choices start; 0: only how often to log and to evaluate, and what "
        'other channels than RGB need.',
        least=0,
    )
    continues: bool = field(
        False, 'Whether the recipe is for weights that exist, which `init` must give: the variant `continue`.'
    )


# The sections whose class does not depend on the config, in the order in which they are written.
SECTIONS: dict[str, type] = {
    'data': Data, 'augment': Policy, 'optimizer': Optimizer, 'schedule': Schedule, 'eval': Eval,
    'auto': Auto,
}  # fmt: skip


def sections_of(config: ConfigDict) -> dict[str, type]:
    """The class that declares each section of a config, by the path of the section; '' is the top level.

    Sections that are missing, and those with an unknown name, are left out.
    """
    sections: dict[str, type | None] = {'': Training, **SECTIONS}
    sections['encoder'] = encoder_class_or_none(_name(config, 'encoder'))
    sections |= {'projector': MLP, 'predictor': MLP}
    sections['method'] = method_or_none(_name(config, 'method'))
    if isinstance(config.get('augment'), ConfigDict) and isinstance(config.augment.get('patches'), ConfigDict):
        sections['augment.patches'] = Patches
    there = {path for path, value in config.items() if isinstance(value, ConfigDict)} | {'', 'augment.patches'}
    return {path: section for path, section in sections.items() if section is not None and path in there}


def _name(config: ConfigDict, section: str) -> str:
    given = config.get(section)
    return str(given.get('name')) if isinstance(given, ConfigDict) else ''
