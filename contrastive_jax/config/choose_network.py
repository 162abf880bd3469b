"""Chooses the size of the views and an encoder with its heads by the data and the machine; see `choose.py`."""

from collections.abc import Callable

from ml_collections import ConfigDict

from contrastive_jax.config.plan import Plan
from contrastive_jax.models.patch_embed import CONV_STEM_STRIDE
from contrastive_jax.models.vit import VITS

FIELDS = (
    'data.image_size', 'augment.local_size', 'augment.blur', 'augment.local_blur', 'augment.crop_scale',
    'augment.patches.size', 'augment.patches.stride', 'augment.patches.crop', 'augment.patches.tile',
    'encoder.name', 'encoder.stem', 'encoder.width', 'encoder.depth', 'encoder.num_heads', 'encoder.patch_size',
    'encoder.patch_stride', 'method.offsets',
    'projector.hidden_dim', 'projector.output_dim', 'predictor.hidden_dim', 'predictor.output_dim',
)  # fmt: skip

SIZES = (32, 40, 48, 64, 96, 128, 160, 192, 224)
CPU_SIZE = 64  # pixels of a view on a CPU, at most
SMALL_SIZE = 64  # up to this size: a stem without stride, no blur
TINY_SIZE = 32  # up to this size, a CPU gets the smallest encoders
LARGE_DATA = 100_000  # images from which on the recipe's encoder is worth its cost
# Multiplications of an encoder, relative to a ResNet-50 at the same image size with the same stem.
WORK = {'tiny': 0.02, '18': 0.45, '34': 0.9, '50': 1.0, '101': 1.9, '152': 2.8, '161': 3.0, '200': 3.7, 'small': 0.8}
VIT_PATCHES = ((16, 2), (48, 4), (96, 8))  # below a size of the views: pixels of a patch
# Grids of CPC: pixels of an image, of a patch and of its stride, as in the recipe's variants.
GRIDS = ((64, 16, 8), (32, 8, 4), (8, 4, 2))


def image_and_encoder(plan: Plan) -> None:
    """Chooses the size of the views, then an encoder and heads for it."""
    c, name = plan.config, str(plan.config.encoder.name)
    if ':' in name:  # a module of the user's own
        _image_size(plan)
    elif name.startswith('cpc'):
        _cpc(plan)
    elif name in VITS:
        _vit(plan)
    elif c.augment.patches:
        _image_size(plan)
        _tiles(plan)
        _resnet(plan, c.augment.patches.tile, TINY_SIZE)
    else:
        small = TINY_SIZE if plan.machine.device == 'cpu' else SMALL_SIZE
        decodes = 'decoder_width' in c.method  # the size must be one that a decoder can double a feature map to
        _image_size(plan, lambda size: (8 if size <= small else 32) if decodes else 1)
        _resnet(plan, c.data.image_size, small)
    size = c.data.image_size
    if size <= SMALL_SIZE:
        why = f'no blur at {size} px, as in the recipes for CIFAR-10'
        plan.set('augment.blur', tuple(0.0 for _ in c.augment.blur), why)
        plan.set('augment.local_blur', 0.0, why)
    if c.augment.local_crops:
        unit = c.encoder.get('patch_size', 2) if name in VITS else 2
        local = max(round(size * 96 / 224 / unit), 1) * unit
        plan.set('augment.local_size', min(c.augment.local_size, local), f'96 of 224 px, for views of {size} px')


def relative_work(c: ConfigDict) -> float:
    """Multiplications of the encoder for one view, relative to a ResNet-50 at 224 pixels with a stem of stride 4."""
    name = str(c.encoder.name)
    of_encoder = next((work for part, work in WORK.items() if name.endswith(part)), 1.0)
    tokens = 16 / c.encoder.get('patch_size', 16) if name in VITS else 1
    stem = 4 if c.encoder.get('stem') == 'cifar' else 1
    return of_encoder * (c.data.image_size / 224 * stem * tokens) ** 2


def _image_size(plan: Plan, unit: Callable[[int], int] = lambda size: 1) -> None:
    """The size of the views: that of the stored images, at most the recipe's; a multiple of what `unit` returns."""
    c, side = plan.config, plan.data.side
    if not side:
        return
    recipe = c.data.image_size
    most = min(recipe, side)
    why = f'the shorter side of the images is {side:,} px'
    if plan.machine.device == 'cpu' and most > CPU_SIZE:
        most, why = CPU_SIZE, f'on a CPU; {recipe} px take {(recipe / CPU_SIZE) ** 2:.0f} times as long'
    sizes = (recipe, *reversed(SIZES))
    size = next((size for size in sizes if size <= most), max(most // 4 * 4, 8))
    plan.set('data.image_size', max(size // unit(size), 1) * unit(size), why)


def _small(plan: Plan) -> str:
    """Why the encoder is a small one; '' if the recipe's is taken."""
    if plan.machine.device == 'cpu':
        return 'a small encoder on a CPU'
    if plan.data.images < LARGE_DATA:
        return f'a small encoder for fewer than {LARGE_DATA:,} images'
    return ''


def _resnet(plan: Plan, size: int, small: int) -> None:
    """A ResNet for images, or tiles, of `size` pixels; up to `small` pixels its stem has no stride."""
    c = plan.config
    split = 'split_' if str(c.encoder.name).startswith('split_') else ''
    tiny = plan.machine.device == 'cpu' and size <= TINY_SIZE
    if why := _small(plan):
        plan.set('encoder.name', split + ('resnet_tiny' if tiny else 'resnet18'), why)
        if tiny and 'width' in c.encoder:
            plan.set('encoder.width', 16, why)
    if size <= small:
        plan.set('encoder.stem', 'cifar', f'views of {size} px: a stem without stride')
    _heads(plan, why)


def _vit(plan: Plan) -> None:
    c = plan.config
    name, given = str(c.encoder.name), c.encoder.patch_size
    if VITS[name].get('stem') == 'conv':
        _image_size(plan, lambda size: CONV_STEM_STRIDE)
        return

    def patch_of(size: int) -> int:
        if not plan.is_free('encoder.patch_size'):
            return int(given)
        return min(next((patch for below, patch in VIT_PATCHES if size < below), given), given)

    _image_size(plan, patch_of)
    size = c.data.image_size
    plan.set('encoder.patch_size', patch_of(size), f'for views of {size} px')
    if why := _small(plan):
        plan.set('encoder.name', f'{name.split("_")[0]}_tiny', why)
        if plan.machine.device == 'cpu' and plan.is_free('encoder.name'):
            for field, value in (('width', 96), ('depth', 6), ('num_heads', 3)):
                plan.set(f'encoder.{field}', value, why)
    _heads(plan, why)


def _heads(plan: Plan, why: str) -> None:
    """Heads for a small encoder. A hidden layer that is as wide as the features of a ResNet-50 stays so."""
    c, name = plan.config, str(plan.config.encoder.name)
    if not why:
        return
    if name.endswith(('18', '34')) and c.projector.hidden_dim == 2048 and c.method.name != 'simsiam':
        plan.set('projector.hidden_dim', 512, why)
    if plan.machine.device == 'cpu' and name.endswith('_tiny'):
        plan.set('projector.hidden_dim', min(c.projector.hidden_dim, 256), why)
        plan.set('projector.output_dim', min(c.projector.output_dim, 256), why)
        if c.predictor:
            bottleneck = c.predictor.hidden_dim < c.predictor.output_dim
            hidden = c.projector.output_dim // 4 if bottleneck else 256
            plan.set('predictor.hidden_dim', min(c.predictor.hidden_dim, hidden), why)
    if c.predictor:
        plan.set('predictor.output_dim', c.projector.output_dim, why)


def _tiles(plan: Plan) -> None:
    """Cells and tiles take as much of the image as in the recipe, and three rows of cells fill it."""
    c, recipe = plan.config, plan.config.augment.patches
    image, before = c.data.image_size, recipe.size + 2 * recipe.stride
    if image == before:
        return
    why = f'three rows of tiles in {image} px'
    stride = max(round(recipe.stride * image / before), 1)
    tile = max(round(recipe.tile * image / before), 1)
    plan.set('augment.patches.stride', stride, why)
    plan.set('augment.patches.size', image - 2 * stride, why)
    plan.set('augment.patches.tile', min(tile, image - 2 * stride), why)


def _cpc(plan: Plan) -> None:
    """CPC's image, patch and stride belong together: those of the recipe, or a grid of its small variants."""
    c = plan.config
    recipe, side = c.data.image_size, plan.data.side
    on_cpu = plan.machine.device == 'cpu'
    most = min(side or recipe, TINY_SIZE if on_cpu else recipe)
    if most >= 0.75 * recipe or not plan.is_free('data.image_size'):
        return
    image, patch, stride = next((grid for grid in GRIDS if grid[0] <= most), GRIDS[-1])
    why = 'on a CPU' if on_cpu and most < side else f'the shorter side of the images is {side:,} px'
    why += f': the grid of patches for {image} px'
    tiny = on_cpu or image < 32
    patches = c.augment.patches
    crop = patches.crop * patch // patches.size
    for field, value in {
        'data.image_size': image, 'encoder.name': 'cpc_tiny' if tiny else 'cpc_small', 'encoder.stem': 'cifar',
        'encoder.patch_size': patch, 'encoder.patch_stride': stride, 'augment.patches.size': patch,
        'augment.patches.stride': stride, 'augment.patches.crop': crop,
        'method.offsets': (2,) if image < 32 else (2, 3, 4), 'augment.crop_scale': (0.6, 1.0),
    }.items():  # fmt: skip
        plan.set(field, value, why)
