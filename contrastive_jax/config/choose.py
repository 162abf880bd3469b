"""Chooses sizes and lengths of a recipe by the data and the machine, by the table in docs/own-data.md.

`choose` is a function of facts: it opens no data and asks no device. It changes only the fields that the config names
in `auto.fields`; a field that the user sets is not in that list, and the other choices fit around it.
"""

import math

from ml_collections import ConfigDict

from contrastive_jax.config import choose_network
from contrastive_jax.config.batch import check_chunks, check_groups, divisors
from contrastive_jax.config.choose_channels import channels
from contrastive_jax.config.fields import CADENCES, OF_CHANNELS
from contrastive_jax.config.plan import Choice, Plan, get
from contrastive_jax.data.facts import DataFacts
from contrastive_jax.data.open import PATHS
from contrastive_jax.distributed.machine import Machine
from contrastive_jax.methods import method_or_none
from contrastive_jax.rules import Rules

FIELDS = (
    *choose_network.FIELDS,
    'batch_size', 'bn_group_size', 'epochs',
    'method.queue_size', 'method.num_negatives', 'method.objective', 'method.temperature', 'method.num_prototypes',
    'method.epsilon', 'method.output_dim', 'method.teacher_warmup_epochs', 'method.queue_from_epoch',
    'optimizer.learning_rate', 'optimizer.freeze_steps',
    'schedule.warmup_epochs', 'schedule.warmup_start', 'schedule.final', 'schedule.milestones',
    'eval.knn_k', 'eval.batch_size', 'eval.max_train', 'eval.max_test',
    *CADENCES, *OF_CHANNELS,
)  # fmt: skip

STEPS_PER_EPOCH = 8  # at least so many, as long as the batch keeps SMALLEST_BATCH
SMALLEST_BATCH = 8
CPU_BATCH = 128
ACTIVATIONS_MIB = 110  # of a view of 224 pixels in a ResNet-50, for a backward pass in float32
MEMORY_SHARE = 0.7  # of a device, for activations
QUEUE_SHARE, NEGATIVES_SHARE, PROTOTYPES_SHARE = 4, 10, 16  # at most 1/4, 1/10, 1/16 of the images
SOFTMAX_IMAGES = 50_000  # up to so many, a bank compares with all images instead of a sample
FEWEST_STEPS = {'cpu': 1000, 'other': 5000}  # of a training
MOST_EPOCHS = {'cpu': 200.0, 'other': 1000.0}  # that few images are raised to
CPU_IMAGES = 1_000_000  # images that a training on a CPU sees in all, at most
CPU_EPOCHS = 10.0  # and it has at least so many epochs
EVALUATIONS = 10
CHECKPOINT_MINUTES = 10.0
CONTINUED = 0.25  # of the length of a training from new weights, for one from weights that exist


def choose(config: ConfigDict, data: DataFacts, machine: Machine) -> tuple[ConfigDict, list[Choice]]:
    """Chooses the free fields of a config.

    Args:
      config: a config whose fields have the right types; it is not changed.
      data: facts about the training images.
      machine: what the run can use.

    Returns:
      The config with the chosen values, and what was chosen.
    """
    if not config.get('auto'):  # a config of the user's own
        return config, []
    plan = Plan(config, data, machine)
    channels(plan)
    if config.auto.reference_batch:  # a variant that fits the whole recipe to the data, such as `folder`
        choose_network.image_and_encoder(plan)
        batch(plan)
        dictionary(plan)
        clusters(plan)
        length(plan)
        phases(plan)
        learning_rate(plan)
        evaluation(plan)
    if config.data.source in PATHS or ':' in config.data.source:
        cadences(plan)
    plan.config.lock()
    return plan.config, plan.choices


def batch(plan: Plan) -> None:
    """The batch: a power of two on each device, small enough for the data, the device's memory and the given fields."""
    c, n, machine = plan.config, plan.data.images, plan.machine
    by_data = max(n // STEPS_PER_EPOCH, min(SMALLEST_BATCH, n))
    limits = {'of the recipe': plan.config.auto.reference_batch, f'for {n:,} images': by_data}
    if machine.device == 'cpu':
        limits['for a CPU'] = CPU_BATCH
    elif machine.memory_gib:
        limits[f'for {machine.memory_gib:.0f} GiB'] = max(_images_in_memory(c, machine) * machine.devices, 1)
    why, most = min(limits.items(), key=lambda limit: limit[1])
    if plan.is_free('batch_size'):
        step = machine.devices
        least = max(step, 2)  # with one image nothing is contrasted
        sizes = [size for size in range(least, max(most, least) + 1, step) if _fits(plan, size)]
        powers = [size for size in sizes if size // step == _power_of_two(size // step) and 2 * size > max(sizes)]
        chosen = max(powers or sizes, default=max(most // step * step, least))
        plan.set('batch_size', chosen, f'the largest {why}, of {limits["of the recipe"]:,} in the recipe')
    _groups(plan)


def _fits(plan: Plan, size: int) -> bool:
    """Whether a batch of this size goes with the fields that are given: groups, chunks and the size of a queue."""
    if size > plan.data.images:
        return False
    if plan.config.chunks == 1 and plan.is_free('bn_group_size') and plan.is_free('method.queue_size'):
        return True
    c = plan.config.copy_and_resolve_references()
    c.batch_size = size
    rules, devices = Rules(c), plan.machine.devices
    if not plan.is_free('bn_group_size'):
        check_groups(c, devices, rules)
    check_chunks(c, devices, rules)
    method = method_or_none(c.method.name)
    if method is not None and not plan.is_free('method.queue_size'):
        method.check(c, rules)
    return not rules.found


def _images_in_memory(c: ConfigDict, machine: Machine) -> int:
    """Images of a batch whose activations fit into the memory of a device."""
    views = max(len(c.augment.blur), 1)
    local = c.augment.local_crops * (c.augment.local_size / c.data.image_size) ** 2
    share = choose_network.relative_work(c) * (views + local) * (0.5 if c.dtype == 'bfloat16' else 1)
    return int(MEMORY_SHARE * machine.memory_gib * 1024 / (ACTIVATIONS_MIB * share)) * c.chunks


def _groups(plan: Plan) -> None:
    """Batch-norm groups: as in the recipe, at most a quarter of the batch, so that MoCo's shuffling has an effect."""
    c, devices = plan.config, plan.machine.devices
    if c.bn_group_size <= 0 or c.batch_size % devices:
        return
    local, method = c.batch_size // devices, method_or_none(c.method.name)
    legal = {*divisors(local)}
    if method is None or not method.concat_views:
        legal |= {local * k for k in divisors(devices)}
    wanted = min(c.bn_group_size, max(4, c.batch_size // 4))
    fitting = [k for k in legal if k <= wanted]
    plan.set('bn_group_size', max(fitting), f'a group of at most a quarter of the batch of {c.batch_size}')


def dictionary(plan: Plan) -> None:
    """Queue and negatives of a bank: far fewer than the images."""
    c, n = plan.config, plan.data.images
    if size := c.method.get('queue_size', 0):
        unit = c.batch_size * (2 if c.method.get('symmetric') else 1)
        most = max(min(size, n // QUEUE_SHARE) // unit, 1) * unit
        plan.set(
            'method.queue_size', most, f'at most a quarter of the {n:,} images, so that few keys are of the same image'
        )
    if 'objective' in c.method and c.method.num_negatives and n <= SOFTMAX_IMAGES:
        why = f'softmax over all {n:,} images, as in the recipes for CIFAR-10 and digits: a sample of so few harms'
        if plan.is_free('method.objective') and plan.is_free('method.num_negatives'):
            plan.set('method.objective', 'softmax', why)
            plan.set('method.num_negatives', 0, why)
            plan.set('method.temperature', 0.1, why)
    if negatives := c.method.get('num_negatives', 0):
        few = min(negatives, max(n // NEGATIVES_SHARE, 1))
        plan.set('method.num_negatives', few, f'at most a tenth of the {n:,} images')


def clusters(plan: Plan) -> None:
    """Prototypes and outputs that play their part: fewer than the images."""
    c, n = plan.config, plan.data.images
    given, most = c.method.get('num_prototypes', 0), max(n // PROTOTYPES_SHARE, 4)
    why = f'at most a sixteenth of the {n:,} images'
    if isinstance(given, tuple | list):
        plan.set('method.num_prototypes', tuple(min(k, most) for k in given), why)
    elif given:
        plan.set('method.num_prototypes', min(given, most), why)
        if c.method.num_prototypes < 300 and 'epsilon' in c.method:
            plan.set('method.epsilon', 0.02, 'with few prototypes and 0.05, the codes are nearly uniform')
    if c.method.name == 'dino':
        outputs = _power_of_two(max(n // QUEUE_SHARE, 8))
        plan.set('method.output_dim', min(c.method.output_dim, outputs), f'at most a quarter of the {n:,} images')


def length(plan: Plan) -> None:
    """Epochs: more for few images, fewer for many images on a CPU."""
    c, n = plan.config, plan.data.images
    on = 'cpu' if plan.machine.device == 'cpu' else 'other'
    per_epoch = max(n // c.batch_size, 1)
    part = CONTINUED if c.auto.get('continues') else 1.0
    most = part * MOST_EPOCHS[on]
    enough = min(math.ceil(part * FEWEST_STEPS[on] / per_epoch), most)
    if c.epochs < enough:
        plan.set('epochs', float(enough), f'{per_epoch:,} steps an epoch: few images need many epochs')
    elif on == 'cpu':
        short = max(part * CPU_IMAGES // n, part * CPU_EPOCHS)
        wanted = min(c.epochs, float(max(enough, short)), max(most, enough))
        plan.set('epochs', float(wanted), f'on a CPU, of {c.epochs:g} in the recipe')


def phases(plan: Plan) -> None:
    """What begins or ends within the training: warm-up, freeze, milestones."""
    c = plan.config
    per_epoch = max(plan.data.images // c.batch_size, 1)
    epochs = c.steps / per_epoch if c.steps else c.epochs
    s, why = c.schedule, f'in a training of {epochs:.4g} epochs'
    if 'warmup' in s.name:
        plan.set('schedule.warmup_epochs', min(s.warmup_epochs, round(epochs / 10, 3)), f'at most a tenth, {why}')
    if s.name == 'step' and s.milestones and (max(s.milestones) >= 0.9 * epochs or epochs > 2 * max(s.milestones)):
        last = max(s.milestones)
        scaled = tuple(float(f'{0.8 * epochs * m / last:.3g}') for m in s.milestones)
        plan.set('schedule.milestones', scaled, f'the last at 80 %, {why}')
    if c.optimizer.freeze_first and c.optimizer.freeze_steps:
        plan.set('optimizer.freeze_steps', min(c.optimizer.freeze_steps, per_epoch), 'one epoch')
    if c.method.get('teacher_warmup_epochs', 0):
        few = min(c.method.teacher_warmup_epochs, int(0.3 * epochs))
        plan.set('method.teacher_warmup_epochs', few, f'at most 30 %, {why}')
    if c.method.get('queue_size', 0) and c.method.get('queue_from_epoch', 0):
        plan.set('method.queue_from_epoch', min(c.method.queue_from_epoch, int(0.15 * epochs)), f'at most 15 %, {why}')


def learning_rate(plan: Plan) -> None:
    """The learning rate of a smaller batch than the recipe's: it falls with a root of the batch size."""
    c, o = plan.config, plan.config.optimizer
    before = c.auto.reference_batch
    if c.batch_size >= before:
        return
    # LARC: both official settings of SwAV, 4.8 at batch 4096 and 0.6 at 256, lie on this power.
    power = 0.75 if o.name == 'larc' else 0.5
    factor = (c.batch_size / before) ** power
    why = f'{factor:.3g} times that of batch {before:,}'
    if o.learning_rate_scaling == 'sqrt':  # the schedule does it
        return
    scaled = c.batch_size / before if o.learning_rate_batch else 1.0
    rate = float(f'{o.learning_rate * factor / scaled:.3g}')
    used = rate * (c.batch_size / o.learning_rate_batch if o.learning_rate_batch else 1)
    plan.set('optimizer.learning_rate', rate, f'a rate of {used:.3g} for batch {c.batch_size:,}, {why}')
    for name in ('warmup_start', 'final'):
        plan.set(f'schedule.{name}', float(f'{c.schedule[name] * factor:.3g}'), why)


def evaluation(plan: Plan) -> None:
    """The evaluations during the training: their number of images and of neighbors."""
    n, machine = plan.data.images, plan.machine
    if n < 10_000:
        plan.set('eval.knn_k', min(get(plan.config, 'eval.knn_k'), max(min(20, n // 10), 1)), f'for {n:,} images')
    if n < 1000:
        plan.set('eval.batch_size', -(-64 // machine.hosts) * machine.hosts, f'for {n:,} images')
    if machine.device == 'cpu':
        for name, most in (('max_train', 5000), ('max_test', 1000)):
            if n > most:
                plan.set(f'eval.{name}', min(plan.config.eval[name], most), 'on a CPU')


def cadences(plan: Plan) -> None:
    """At least ten evaluations, a log line an epoch, and checkpoints by time."""
    c = plan.config
    per_epoch = max(plan.data.images // c.batch_size, 1)
    total = c.steps or max(1, math.ceil(c.epochs * per_epoch))
    every = max(total // EVALUATIONS, 1)
    if every > per_epoch:
        every = every // per_epoch * per_epoch
    why = f'{EVALUATIONS} evaluations or more in {total:,} steps'
    plan.set('log_every_steps', max(min(c.log_every_steps, per_epoch, every), 1), f'{per_epoch:,} steps an epoch')
    if c.eval_every_steps:
        plan.set('eval_every_steps', min(c.eval_every_steps, every), why)
    plan.set('checkpoint_every_steps', min(c.checkpoint_every_steps, every), why)
    plan.set('checkpoint_every_minutes', CHECKPOINT_MINUTES, 'at most so much is lost')


def _power_of_two(n: int) -> int:
    """The largest power of two that is not above n."""
    return 1 << (n.bit_length() - 1)
