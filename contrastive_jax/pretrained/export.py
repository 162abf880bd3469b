"""Writes an encoder where it is wanted: a file of ours, torchvision's or timm's names, Detectron2, ONNX."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from contrastive_jax.errors import UserError
from contrastive_jax.models.resnet import ResNet
from contrastive_jax.models.vit import VisionTransformer, sincos_position
from contrastive_jax.pretrained import architecture, names, onnx_files, weights, writers
from contrastive_jax.pretrained.published import Say
from contrastive_jax.pretrained.weights import Weights

NAMES = ('ours', 'torch', 'detectron2')
SUFFIXES = {
    '.safetensors': ('ours', 'torch'),
    '.pth': ('torch',),
    '.pt': ('torch',),
    '.pkl': ('detectron2',),
    '.onnx': ('onnx',),
}
EPSILON = 1e-5  # of torch's batch norm


def names_for(path: Path, wanted: str | None = None) -> str:
    """Whose names a file with that suffix gets.

    Raises:
      UserError: an unknown suffix, or one of files that do not have the names that are wanted; what writes ONNX is not
        installed.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f'OUT {path} ends in {path.suffix or "nothing"} -> choose from {", ".join(SUFFIXES)}')
    legal = SUFFIXES[path.suffix]
    if wanted and wanted not in legal:
        raise UserError(f'--names={wanted} is not for {path.suffix} -> choose from {", ".join(legal)}')
    if legal == ('onnx',):
        onnx_files.check_installed()
    return wanted or legal[0]


def write(path: Path, made: Weights, suffix: str, wanted: str, say: Say) -> None:
    """Writes a file.

    Args:
      path: where; its own suffix does not matter.
      made: the encoder.
      suffix: a key of SUFFIXES.
      wanted: whose names, see `names_for`.
      say: is told what whoever loads it must know.

    Raises:
      UserError: no such network is known there.
    """
    if wanted == 'ours':
        weights.save(path, made)
        return
    if wanted == 'onnx':
        onnx_files.write(path, made, say)
        return
    state, notes = torch_state(made)
    if wanted == 'detectron2':
        if not isinstance(made.encoder, ResNet):
            raise UserError(f'{made.config["name"]} is no ResNet, the only one that Detectron2 takes')
        state = {names.detectron2_name(name): x for name, x in state.items() if not name.endswith(names.COUNTER)}
        # There is no fc to take away.
        notes[0] = 'Detectron2: for MODEL.WEIGHTS, with MODEL.RESNETS.STRIDE_IN_1X1 False and INPUT.FORMAT RGB'
        writers.write_detectron2(path, state, 'contrastive_jax')
    elif suffix == '.safetensors':
        save_file({name: np.ascontiguousarray(x) for name, x in state.items()}, path, metadata={'format': 'pt'})
    else:
        writers.write_torch(path, state)
    for note in [*notes, f'images: {weights.normalisation(made.policy)}']:
        say(f'note: {note}')


def torch_state(made: Weights) -> tuple[dict[str, np.ndarray], list[str]]:
    """A state dict under torchvision's or timm's names, and what whoever loads it must know.

    Raises:
      UserError: there is no such network there.
    """
    encoder, flat = made.encoder, made.flat
    if isinstance(encoder, ResNet):
        notes = _notes_on_resnet(made, encoder)
    elif isinstance(encoder, VisionTransformer):
        notes = [
            f'timm: num_classes=0, num_heads={encoder.num_heads}, img_size={made.image_size}'
            + (", and MoCo v3's convolutional stem" if encoder.stem == 'conv' else '')
        ]
    else:
        raise UserError(f'{made.config["name"]} has no counterpart in torchvision or timm -> write .safetensors, ours')
    state = {}
    for path, name in names.torch_names(flat).items():
        state[name] = names.to_torch(path, flat[path])
        if name.endswith('running_var'):
            state[name.replace('running_var', names.COUNTER)] = np.array(0, np.int64)
    if isinstance(encoder, VisionTransformer) and encoder.position == 'sincos':
        side = made.image_size // encoder.patch_size
        state[architecture.POSITION] = sincos_position(side, side, encoder.width)[None].astype(np.float32)
    return state, notes


def _notes_on_resnet(made: Weights, encoder: ResNet) -> list[str]:
    """What is to be known.

    Raises:
      UserError: torchvision has no such ResNet, so its features would be others.
    """
    if encoder.padding != 'torch' or encoder.sk_ratio:
        what = 'selective kernels' if encoder.sk_ratio else f'padding {encoder.padding!r}'
        raise UserError(
            f'{made.config["name"]} has {what}, as no ResNet of torchvision has -> write .safetensors, ours'
        )
    notes = ['torchvision: set model.fc = torch.nn.Identity()']
    if encoder.stem == 'cifar':
        notes.append('its stem is a 3x3 convolution of stride 1 without max-pool: change conv1 and maxpool so')
    if encoder.bn_epsilon != EPSILON:
        notes.append(f'its batch norms have eps={encoder.bn_epsilon:g}: set it in every BatchNorm2d')
    return notes
