"""The plan of a run: what its config comes to on described devices, and what to change if it does not fit."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from contrastive_jax.config.check import check, check_examples
from contrastive_jax.config.choose import choose
from contrastive_jax.config.plan import put
from contrastive_jax.data import facts
from contrastive_jax.distributed.devices import Devices
from contrastive_jax.distributed.machine import Machine
from contrastive_jax.errors import DataError, UserError
from contrastive_jax.plan.chips import GIB, Chip
from contrastive_jax.plan.estimate import Bounds, bounds
from contrastive_jax.plan.programs import Compiled, Images, TooLarge, compile_step
from contrastive_jax.plan.topologies import host_count
from contrastive_jax.training.build import build_run
from contrastive_jax.training.fit import load_data
from contrastive_jax.training.run import Run

RESERVED = 0.97  # of the memory of a device is for programs; the rest is the runtime's
CHUNKS = (2, 4, 8, 16, 32)

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is planned.

    Attributes:
      config: checked, with all that the data and the machine choose.
      chip: a device.
      devices: the described devices.
      count: the number of training images.
      images: [n, H, W, C] of images that stay on the devices; None: the host sends crops.
    """

    config: ConfigDict
    chip: Chip
    devices: Devices
    count: int
    images: Images | None

    def run(self) -> Run:
        return build_run(self.config, self.count, self.chip.platform)

    def compile(self) -> Compiled:
        stride = 1 if self.chip.platform == 'cpu' else self.config.log_every_steps
        return compile_step(self.run(), self.devices, self.images, stride)

    def changed(self, **fields: Any) -> 'Setting | None':
        """The same with other values of fields; None if the config is not right then."""
        config = self.config.copy_and_resolve_references()
        for field, value in fields.items():
            put(config, field, value)
        size = config.batch_size
        if config.method.get('queue_size'):
            unit = size * (2 if config.method.get('symmetric') else 1)
            put(config, 'method.queue_size', max(config.method.queue_size // unit, 1) * unit)
        if check(config, self.devices.count) or check_examples(config, self.count, self.devices.count):
            return None
        return dataclasses.replace(self, config=config)


Compiler = Callable[[Setting], Compiled]


@dataclasses.dataclass(frozen=True)
class Alternative:
    """Another way to compute the same step.

    Attributes:
      flags: the arguments that a command gets.
      peak: bytes of a device.
      fits: whether it fits.
    """

    flags: str
    peak: int
    fits: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run will cost.

    Attributes:
      setting: what was planned.
      run: what is constant in the run.
      compiled: its step; None if the compiler finds no place for it.
      refusal: what the compiler says then.
      bounds: lower bounds of the time of a step; None if the chip has no stated peaks.
      largest: the largest batch that fits, by a line through two compiled batches; None: not looked for.
      alternatives: what was tried because the step does not fit.
    """

    setting: Setting
    run: Run
    compiled: Compiled | None
    refusal: str
    bounds: Bounds | None
    largest: int | None
    alternatives: tuple[Alternative, ...]

    @property
    def fits(self) -> bool:
        return self.compiled is not None and fits(self.compiled, self.setting.chip)


def prepare(config: ConfigDict, chip: Chip, devices: Devices, count: int = 0) -> Setting:
    """Opens the data and checks the config for the devices.

    Args:
      config: a config with its overrides.
      chip: a device.
      devices: the described devices.
      count: the number of training images; then no data is opened, and the host sends crops. 0: those of the data.

    Raises:
      UserError: the config is wrong, or the data is not here.
    """
    images = None
    if count:
        measured = facts.DataFacts(count, 0)
    else:
        try:
            source, _ = load_data(config)
        except DataError as error:
            raise DataError(f'{error}; to plan without the data, give its number of images: --images=N') from error
        measured, count = facts.measure(source), len(source)
    hosts = host_count(chip, devices)
    kind = 'gpu' if chip.platform == 'cuda' else chip.platform
    config, _ = choose(config, measured, Machine(kind, devices.count, chip.memory / GIB, hosts=hosts))
    if problems := check(config, devices.count, hosts) or check_examples(config, count, devices.count):
        raise UserError.of(problems)
    if measured.side and config.data.on_device:
        source = source.for_image_size(config.data.image_size)
        if source.array is not None:
            images = Images(source.array.shape, source.array.dtype)
    return Setting(config, chip, devices, count, images)


def make(
    setting: Setting, quick: bool = False, say: Say = lambda line: None, compiler: Compiler = Setting.compile
) -> Plan:
    """Compiles the step and, if the memory of a device is known, what else is needed to say what fits.

    Args:
      setting: what is planned.
      quick: whether only the step itself is compiled.
      say: is told what is being compiled.
      compiler: compiles the step of a setting; raises TooLarge if it finds no place for it.
    """
    run, c = setting.run(), setting.config
    say(f'compiling the step of batch {c.batch_size:,} for {setting.devices.count} x {setting.chip.title} ...')
    compiled, refusal = _tried(setting, compiler)
    found = None if compiled is None else bounds(compiled, setting.chip, setting.devices.count, c.dtype)
    largest, alternatives = None, []
    if setting.chip.memory and not quick:
        largest = _largest(setting, compiled, say, compiler)
        if compiled is None or not fits(compiled, setting.chip):
            for alternative in _alternatives(setting, say, compiler):
                alternatives.append(alternative)
                if alternative.fits:
                    break
    return Plan(setting, run, compiled, refusal, found, largest, tuple(alternatives))


def fits(compiled: Compiled, chip: Chip) -> bool:
    """Whether a step fits into the memory of a device; True if that is not known."""
    return not chip.memory or compiled.memory.peak <= RESERVED * chip.memory


def _tried(setting: Setting, compiler: Compiler) -> tuple[Compiled | None, str]:
    try:
        return compiler(setting), ''
    except TooLarge as error:
        return None, str(error)


def _largest(setting: Setting, compiled: Compiled | None, say: Say, compiler: Compiler) -> int | None:
    """The largest batch that fits, by a line through the memory of two batches; None if there are no two."""
    points = [] if compiled is None else [(setting.config.batch_size, compiled.memory.peak)]
    size = setting.config.batch_size
    while len(points) < 2:
        size //= 2
        smaller = setting.changed(batch_size=size) if size >= setting.devices.count else None
        if smaller is None:
            return None
        say(f'compiling batch {size:,}, to see how memory grows ...')
        if (other := _tried(smaller, compiler)[0]) is not None:
            points.append((size, other.memory.peak))
    (many, most), (few, least) = points
    if most <= least:
        return None
    grows = (most - least) / (many - few)
    room = min(int(few + (RESERVED * setting.chip.memory - least) / grows), setting.count)
    unit = max(setting.config.bn_group_size, 1) * setting.devices.count
    for candidate in range(room // unit * unit, 0, -unit):
        if setting.changed(batch_size=candidate) is not None:
            return candidate
    return None


def _alternatives(setting: Setting, say: Say, compiler: Compiler) -> Iterator[Alternative]:
    """Other ways to compute the same step, those that cost least first."""
    c, fields = setting.config, dict[str, Any]()
    ways: list[dict[str, Any]] = []
    if c.dtype != 'bfloat16':
        ways.append({'dtype': 'bfloat16'})
    if c.encoder.get('remat') is False:
        ways.append({'encoder.remat': True})
    ways += [{'chunks': n} for n in CHUNKS if n > c.chunks]
    for way in ways:
        tried = {**fields, **way}
        if (changed := setting.changed(**tried)) is None:
            continue
        fields = tried
        flags = ' '.join(f'--config.{name}={value}' for name, value in fields.items())
        say(f'compiling with {flags} ...')
        compiled, _ = _tried(changed, compiler)
        if compiled is not None:
            yield Alternative(flags, compiled.memory.peak, fits(compiled, setting.chip))
