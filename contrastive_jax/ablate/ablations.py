"""The ablations of the papers: which fields of which recipe each of them changes.

The trainings are small: the digits, or CIFAR-10 for `CIFAR10_EPOCHS` epochs. So the accuracies are not those of the
papers, which trained on ImageNet; what can be compared is the order.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ml_collections import ConfigDict

Data = Literal['digits', 'cifar10']
Changes = Mapping[str, Any]  # dotted field of a config -> value

CIFAR10_EPOCHS = 20.0


@dataclasses.dataclass(frozen=True)
class Arm:
    """One training of an ablation.

    Attributes:
      name: what is trained, in a few words; unique in its ablation.
      changes: the fields that differ from the recipe.
      config: another recipe than that of the ablation, with its variants but the data's; '': that one.
      place: (row, column) in a grid, or (curve, value on the x axis) of curves; () for bars.
      length: how many times the epochs of the other arms it is trained.
    """

    name: str
    changes: Changes = dataclasses.field(default_factory=dict)
    config: str = ''
    place: tuple[str, ...] = ()
    length: int = 1


@dataclasses.dataclass(frozen=True)
class Ablation:
    """A question, and the trainings that answer it.

    Attributes:
      question: one line.
      source: the paper and its figure or table.
      seen: what the paper saw there, on ImageNet.
      config: the recipe, without the variant of the data.
      arms: the trainings; the first one is the recipe where nothing else is said.
      picture: 'bars', 'grid' (rows and columns of `Arm.place`) or 'curves'.
      axis: what the x axis of curves is.
      signal: a metric of the method that shows what happens, beside the accuracies; '': none.
    """

    question: str
    source: str
    seen: str
    config: str
    arms: tuple[Arm, ...]
    picture: Literal['bars', 'grid', 'curves'] = 'bars'
    axis: str = ''
    signal: str = ''


def augmentations(data: Data) -> Ablation:
    """SimCLR, figure 5: each operation alone, and in pairs."""
    digits = data == 'digits'
    off: Changes = {
        'augment.crop_scale': (1.0, 1.0),
        'augment.crop_ratio': (1.0, 1.0),
        'augment.flip': 0.0,
        'augment.warp': 0.0,
        'augment.jitter_probability': 0.0,
        'augment.grayscale': 0.0,
        'augment.blur': (0.0, 0.0),
        'augment.solarize': (0.0, 0.0),
    }
    operations: dict[str, Changes] = {
        'crop': {'augment.crop_scale': (0.5, 1.0) if digits else (0.08, 1.0), 'augment.crop_ratio': (0.75, 4 / 3)},
        'color': {'augment.jitter_probability': 0.8},
        'gray': {'augment.grayscale': 0.5},
        'blur': {'augment.blur': (0.5, 0.5), 'augment.blur_sigma': (0.1, 1.0)},
        'rotate': {'augment.warp': 1.0, 'augment.shear': 0.0},
    }
    if digits:
        del operations['gray']  # they are gray
    pairs = itertools.product(operations.items(), repeat=2)
    arms = [
        Arm(one if one == two else f'{one} + {two}', {**off, **a, **b}, place=(one, two))
        for (one, a), (two, b) in pairs
        if list(operations).index(one) <= list(operations).index(two)  # the order of operations is that of the recipe
    ]
    return Ablation(
        'Which operations make two views of an image, alone and in pairs?',
        'SimCLR, arXiv 2002.05709, figure 5 (there on one of two views, here on both)',
        'No single operation suffices; random crops with color distortion are best, at 56 % against 33 % or less for '
        'one operation.',
        'simclr',
        tuple(arms),
        'grid',
    )


def mocov2_ladder(data: Data) -> Ablation:
    """MoCo v2, table 1: from v1 to v2."""
    mlp: Changes = {
        'projector.num_layers': 2,
        'projector.hidden_dim': {'digits': 128, 'cifar10': 512}[data],
        'projector.batch_norm': False,
        'method.temperature': 0.2,
    }
    augmented: Changes = {
        'augment.blur': (0.5, 0.5),
        'augment.blur_sigma': (0.1, 1.0),
        'augment.jitter_probability': 0.8,
        'augment.grayscale_first': False,
    }
    cosine: Changes = {'schedule.name': 'cosine'}
    return Ablation(
        'What does each step from MoCo v1 to v2 bring?',
        'MoCo v2, arXiv 2003.04297, table 1',
        'Linear probe, 200 epochs: v1 60.6, MLP 66.2, augmentation 63.4, both 67.3, with cosine 67.5; 800 epochs 71.1.',
        'mocov1',
        (
            Arm('MoCo v1'),
            Arm('MLP', mlp),
            Arm('augmentation', augmented),
            Arm('MLP, augmentation', {**mlp, **augmented}),
            Arm('MLP, augmentation, cosine', {**mlp, **augmented, **cosine}),
            Arm('the same, twice the epochs', {**mlp, **augmented, **cosine}, length=2),
        ),
    )


def dictionary_size(data: Data) -> Ablation:
    """MoCo v1, figure 3: K of the three dictionaries."""
    batches, sizes = {
        'digits': ((64, 128, 256), (128, 256, 512, 1024)),
        'cifar10': ((128, 256, 512), (512, 2048, 8192, 32768)),
    }[data]
    size_of = {'memory_bank': 'method.num_negatives', 'moco': 'method.queue_size'}
    arms = [
        Arm(f'end-to-end, K = {K}', {'batch_size': K}, 'dictionary:end_to_end', ('end-to-end', str(K))) for K in batches
    ]
    for kind, title in (('memory_bank', 'memory bank'), ('moco', 'MoCo')):
        arms += [Arm(f'{title}, K = {K}', {size_of[kind]: K}, f'dictionary:{kind}', (title, str(K))) for K in sizes]
    return Ablation(
        'How does the number of negatives K change the accuracy, for each kind of dictionary?',
        'MoCo v1, arXiv 1911.05722, figure 3',
        'All three gain from a larger K. End-to-end ends at the largest batch, 1,024, with 57.3 %; the memory bank '
        'reaches 58.0 % and MoCo 60.6 % at K = 65,536.',
        'dictionary',
        tuple(arms),
        'curves',
        'K, the number of negatives',
    )


def momentum(data: Data) -> Ablation:
    """MoCo v1, the table of m in section 4.1."""
    del data
    arms = [
        Arm(f'm = {m:g}', {'method.momentum': m}, place=('MoCo', f'{m:g}')) for m in (0.0, 0.9, 0.99, 0.999, 0.9999)
    ]
    return Ablation(
        'How slowly must the key encoder move?',
        'MoCo v1, arXiv 1911.05722, section 4.1',
        'm = 0 does not train; 0.9 gives 55.2 %, 0.99 57.8 %, 0.999 59.0 %, 0.9999 58.9 %. The best m depends on the '
        'number of steps.',
        'mocov1',
        tuple(arms),
        'curves',
        'm, the momentum of the key encoder',
    )


def byol(data: Data) -> Ablation:
    """BYOL, tables 5 and 6."""
    del data
    return Ablation(
        'Why does BYOL not collapse?',
        'BYOL, arXiv 2006.07733, tables 5a and 5b',
        'Without predictor it collapses (0.2 %); a target that follows at once does too (0.3 %), and a target that '
        'stays random gives 18.8 %, against 72.5 % of BYOL.',
        'byol',
        (
            Arm('BYOL'),
            Arm('without predictor', {'method.use_predictor': False}),
            Arm('the target follows at once', {'method.momentum': 0.0, 'method.momentum_rises': False}),
            Arm('the target stays random', {'method.momentum': 1.0}),
            Arm('heads without BN', {'projector.batch_norm': False, 'predictor.batch_norm': False}),
        ),
        signal='feature_std',
    )


def simsiam(data: Data) -> Ablation:
    """SimSiam, figure 2, tables 1 and 3."""
    del data
    no_norm = {'projector.batch_norm': False, 'projector.last_batch_norm': False, 'predictor.batch_norm': False}
    return Ablation(
        'Why does SimSiam not collapse?',
        'SimSiam, arXiv 2011.10566, figure 2, tables 1 and 3',
        'Without stop-gradient it collapses (0.1 %), without predictor too (0.1 %); without BN in the heads it trains '
        'badly and does not collapse (34.6 %), against 67.7 % of SimSiam.',
        'simsiam',
        (
            Arm('SimSiam'),
            Arm('without stop-gradient', {'method.stop_gradient': False}),
            Arm('without predictor', {'method.use_predictor': False}),
            Arm('heads without BN', no_norm),
        ),
        signal='feature_std',
    )


def patch_projection(data: Data) -> Ablation:
    """MoCo v3, section 4."""
    del data
    return Ablation(
        'Does a frozen patch projection make the training of a ViT stable?',
        'MoCo v3, arXiv 2104.02057, section 4',
        'With a trained projection the gradient of the first layer has spikes; the accuracy dips there and ends lower.',
        'mocov3_vit',
        (Arm('frozen'), Arm('trained', {'optimizer.freeze': ()})),
        signal='grad_norm',
    )


def dino(data: Data) -> Ablation:
    """DINO, figure 7."""
    del data
    return Ablation(
        'Do centering and sharpening both prevent collapse?',
        'DINO, arXiv 2104.14294, figure 7',
        'Without one of them it collapses: without centering to one output, with entropy 0; without sharpening to the '
        'uniform output, with the largest entropy.',
        'dino',
        (
            Arm('DINO'),
            Arm('without centering', {'method.center_momentum': 1.0}),  # the center stays 0
            Arm(
                'without sharpening',
                {'method.teacher_temperature': 1.0, 'method.warmup_teacher_temperature': 1.0},
            ),
        ),
        signal='teacher_entropy',
    )


def temperature(data: Data) -> Ablation:
    """SimCLR, table 5."""
    del data
    arms = [
        Arm(f'T = {T:g}', {'method.temperature': T}, place=('SimCLR', f'{T:g}')) for T in (0.05, 0.1, 0.2, 0.5, 1.0)
    ]
    return Ablation(
        'How does the temperature change the accuracy?',
        'SimCLR, arXiv 2002.05709, table 5',
        'T = 0.05 gives 59.7 %, 0.1 64.4 %, 0.5 60.7 %, 1.0 58.0 %.',
        'simclr',
        tuple(arms),
        'curves',
        'T, the temperature',
    )


ABLATIONS: dict[str, Callable[[Data], Ablation]] = {
    'augmentations': augmentations,
    'mocov2_ladder': mocov2_ladder,
    'dictionary_size': dictionary_size,
    'momentum': momentum,
    'temperature': temperature,
    'byol': byol,
    'simsiam': simsiam,
    'patch_projection': patch_projection,
    'dino': dino,
}


def config_of(ablation: Ablation, arm: Arm, data: Data) -> str:
    """The recipe of an arm with its variants, such as 'dictionary:moco,digits'."""
    name, _, variant = (arm.config or ablation.config).partition(':')
    return f'{name}:{variant},{data}' if variant else f'{name}:{data}'


def changes_of(arm: Arm, data: Data, recipe: ConfigDict, epochs: float | None = None) -> dict[str, Any]:
    """The fields of an arm that differ from its recipe.

    Args:
      arm: the arm.
      data: which recipes are used.
      recipe: the config of `config_of`.
      epochs: the length of the ablation's trainings; None: that of the recipe, or `CIFAR10_EPOCHS`.
    """
    usual = CIFAR10_EPOCHS if data == 'cifar10' else recipe.epochs
    return {**_of_length(recipe, arm.length * (epochs or usual)), **arm.changes}


def _of_length(recipe: ConfigDict, epochs: float) -> dict[str, Any]:
    """Another length, and what begins or ends within it.

    Milestones keep their share; a warm-up, and a phase in which a part is not trained, have at most a tenth.
    """
    if epochs == recipe.epochs:
        return {}
    schedule, method, optimizer = recipe.schedule, recipe.method, recipe.optimizer
    changes: dict[str, Any] = {'epochs': float(epochs)}
    if 'warmup' in schedule.name:
        changes['schedule.warmup_epochs'] = min(schedule.warmup_epochs, epochs / 10)
    if optimizer.freeze_first:
        changes['optimizer.freeze_epochs'] = min(optimizer.freeze_epochs, epochs / 10)
    if schedule.name == 'step':
        changes['schedule.milestones'] = tuple(float(f'{epochs / recipe.epochs * m:.3g}') for m in schedule.milestones)
    if method.get('teacher_warmup_epochs', 0):
        changes['method.teacher_warmup_epochs'] = min(method.teacher_warmup_epochs, int(0.3 * epochs))
    return changes
