"""The arrays of an encoder under torchvision's, timm's, CMC's and Detectron2's names, with torch's array layouts."""

import numpy as np

from contrastive_jax.errors import UserError
from contrastive_jax.models.positions import sincos_position
from contrastive_jax.models.resnet import RESNETS, ResNet
from contrastive_jax.models.vit import VisionTransformer
from contrastive_jax.pretrained import architecture, names
from contrastive_jax.pretrained.encoder import Encoder

WIDTH, STAGES = 64, 4  # of torchvision's and timm's stems, and of their ResNets
EPSILON = 1e-5  # of torch's batch norm
# (block, blocks in each stage) of torchvision's ResNets
TORCHVISION = {
    (fields['block'], tuple(fields['stage_sizes']))
    for name, fields in RESNETS.items()
    if name not in ('resnet_tiny', 'resnet200')
}
TORCHVISION_STEM = (7, 2, 'symmetric')  # kernel size, stride and padding of the first convolution
SELF_CONTAINED = 'write a .py file, which needs torch alone, or a .safetensors file of ours'


def elsewhere(encoder: Encoder) -> str:
    """The formats for a network that torchvision, timm and transformers do not have, for messages."""
    if ':' in encoder.architecture['name']:  # a class of the user's own
        return 'write a .jaxexport file, which needs jax alone, or a .safetensors file of ours'
    return SELF_CONTAINED


def state_dict(encoder: Encoder) -> dict[str, np.ndarray]:
    """The state dict of an encoder of this library, whether or not torchvision and timm have such a network.

    A ViT with fixed positions gets them as 'pos_embed', for its image size.
    """
    module, flat, state = encoder.module, encoder.flat, {}
    for path, theirs in names.torch_names(flat).items():
        state[theirs] = names.to_torch(path, flat[path])
        if theirs.endswith('running_var'):
            state[theirs.replace('running_var', names.COUNTER)] = np.array(0, np.int64)
    if isinstance(module, VisionTransformer) and module.position == 'sincos':
        side = encoder.image_size // module.patch_size
        state[architecture.POSITION] = sincos_position(side, side, module.width)[None].astype(np.float32)
    return state


def torch_state(encoder: Encoder) -> tuple[dict[str, np.ndarray], list[str]]:
    """A state dict under torchvision's or timm's names, and what a user of it must know.

    Raises:
      UserError: torchvision and timm have no such network.
    """
    module, name = encoder.module, encoder.architecture['name']
    if isinstance(module, ResNet):
        notes = _notes_on_resnet(name, module)
        if encoder.channels != 3:
            notes.append(f'the first convolution takes {encoder.channels} channels: change conv1; timm: in_chans')
    elif isinstance(module, VisionTransformer):
        notes = [
            f'timm: num_classes=0, num_heads={module.num_heads}, img_size={encoder.image_size}'
            + (f', in_chans={encoder.channels}' if encoder.channels != 3 else '')
            + (", and MoCo v3's convolutional stem" if module.stem == 'conv' else '')
        ]
    else:
        raise UserError(f'{name} has no counterpart in torchvision or timm -> {elsewhere(encoder)}')
    return state_dict(encoder), notes


def detectron2_state(encoder: Encoder) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of a ResNet under Detectron2's names, and what a user of them must know.

    Raises:
      UserError: the encoder is not a ResNet, or one that Detectron2 does not have.
    """
    state, _ = torch_state(encoder)
    if not isinstance(encoder.module, ResNet):
        raise UserError(f'{encoder.architecture["name"]} is not a ResNet, the only encoder that Detectron2 can load')
    inputs = 'INPUT.FORMAT RGB' if encoder.channels == 3 else f'{encoder.channels} values in MODEL.PIXEL_MEAN'
    notes = [f'Detectron2: for MODEL.WEIGHTS, with MODEL.RESNETS.STRIDE_IN_1X1 False and {inputs}']
    if different := resnet_differences(encoder.module):
        notes.append(f"unlike Detectron2's it has {', '.join(different)}: change the model so")
    return {names.detectron2_name(name): x for name, x in state.items() if not name.endswith(names.COUNTER)}, notes


def resnet_differences(module: ResNet) -> list[str]:
    """What distinguishes a ResNet from torchvision's, other than its depth and widths; [] if nothing does."""
    found = [] if module.input_channels is None else [f'input_channels {module.input_channels}']
    _, *stem = module.stem_convolutions()[0]
    if module.sk_ratio:
        found.append('selective kernels')
    elif module.padding != 'torch':
        found.append(f'padding {module.padding!r}')
    else:
        if tuple(stem) != TORCHVISION_STEM:
            kernel_size, stride, padding = stem
            edge = '' if padding == 'symmetric' else f' and padding {padding}'
            found.append(f'a {kernel_size}x{kernel_size} convolution of stride {stride}{edge} in its stem')
        if not module.stem_pools:
            found.append('no max-pool')
        if not module.stem_relu:
            found.append('no ReLU in its stem')
    if module.bn_epsilon != EPSILON:
        found.append(f'batch norms with eps={module.bn_epsilon:g}')
    return found


def unlike_in_size(module: ResNet) -> list[str]:
    """What distinguishes the shape of a ResNet from those of torchvision and timm, and no argument of them changes."""
    (stem, *_), *_ = module.stem_convolutions()
    stages = len(module.stage_sizes)
    return [
        *([f'{stem} channels in its stem'] if stem != WIDTH else []),
        *([f'{stages} stages'] if stages != STAGES else []),
    ]


def _notes_on_resnet(name: str, module: ResNet) -> list[str]:
    """What a user of torchvision must know.

    Raises:
      UserError: torchvision has no such ResNet, so its features would differ.
    """
    if module.padding != 'torch' or module.sk_ratio or module.input_channels is not None:
        raise UserError(f"{name} has {resnet_differences(module)[0]}, unlike torchvision's ResNets -> {SELF_CONTAINED}")
    notes = ['torchvision: set model.fc = torch.nn.Identity()']
    different, sizes = resnet_differences(module), list(module.stage_sizes)
    width = module.width * module.width_multiplier
    fixed = unlike_in_size(module) + ([f'{width} channels in its first stage'] if width != WIDTH else [])
    if (module.block, tuple(sizes)) not in TORCHVISION:
        different.append(f'{" + ".join(map(str, sizes))} blocks in its stages')
    if fixed:
        also = f'; it also has {", ".join(different)}' if different else ''
        notes = [
            f"torchvision's ResNet has no arguments for {', '.join(fixed)}{also} -> convert to a .py file, which needs "
            'torch alone, or load this state dict into a class of your own'
        ]
    elif different:
        kind = 'Bottleneck' if module.block == 'bottleneck' else 'BasicBlock'
        notes.append(
            f"unlike torchvision's it has {', '.join(different)}: change the model so, from "
            f'torchvision.models.ResNet(torchvision.models.resnet.{kind}, {sizes}), or convert to a .py file'
        )
    return notes
