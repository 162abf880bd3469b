"""Writes an encoder for use elsewhere: a file of ours, torchvision's or timm's names, Detectron2, ONNX."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from contrastive_jax.errors import UserError
from contrastive_jax.models.resnet import ResNet
from contrastive_jax.models.vit import VisionTransformer, sincos_position
from contrastive_jax.pretrained import architecture, encoder_file, names, onnx_files, pixels, writers
from contrastive_jax.pretrained.encoder import Encoder, Say
from contrastive_jax.workdir.atomic import write_atomically

NAMES = ('ours', 'torch', 'detectron2')
SUFFIXES = {
    '.safetensors': ('ours', 'torch'),
    '.pth': ('torch',),
    '.pt': ('torch',),
    '.pkl': ('detectron2',),
    '.onnx': ('onnx',),
}
EPSILON = 1e-5  # of torch's batch norm


def names_for(path: Path, wanted: str = '') -> str:
    """Whose names the arrays get in a file with this suffix.

    Args:
      path: the file to be written.
      wanted: a value of NAMES; '': the usual one for the suffix.

    Raises:
      UserError: an unknown suffix, or one of files that cannot have these names; jax2onnx is needed and not installed.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f'{path} ends in {path.suffix or "nothing"} -> choose from {", ".join(SUFFIXES)}')
    legal = SUFFIXES[path.suffix]
    if wanted and wanted not in legal:
        raise UserError(f'names {wanted!r} cannot be written to {path.suffix} files -> choose from {", ".join(legal)}')
    if legal == ('onnx',):
        onnx_files.check_installed()
    return wanted or legal[0]


def write(path: str | Path, encoder: Encoder, wanted: str = '', say: Say = lambda _: None) -> None:
    """Writes a file, whose suffix decides the format: all of it or, if something fails, nothing.

    Args:
      path: a file with a suffix of SUFFIXES.
      encoder: as it was loaded, or for another image size.
      wanted: whose names the arrays get, see `names_for`.
      say: is called with what a user of the file must know, line by line.

    Raises:
      UserError: the file cannot be written, or there is no such network in that library.
    """
    path = Path(path).expanduser()
    wanted = names_for(path, wanted)
    if wanted == 'ours':
        encoder_file.save(path, encoder)
        return
    encoder.check_savable()
    try:
        if wanted == 'onnx':
            write_atomically(path, lambda temporary: onnx_files.write(temporary, encoder, say))
            return
        state, notes = torch_state(encoder)
        if wanted == 'detectron2':
            state = detectron2_state(encoder, state)
            # Detectron2 builds no fc, so the first note on torchvision does not apply.
            inputs = 'INPUT.FORMAT RGB' if encoder.channels == 3 else f'{encoder.channels} values in MODEL.PIXEL_MEAN'
            notes[0] = f'Detectron2: for MODEL.WEIGHTS, with MODEL.RESNETS.STRIDE_IN_1X1 False and {inputs}'
            write_atomically(path, lambda temporary: writers.write_detectron2(temporary, state, 'contrastive_jax'))
        elif path.suffix == '.safetensors':
            arrays = {name: np.ascontiguousarray(x) for name, x in state.items()}
            write_atomically(path, lambda temporary: save_file(arrays, temporary, metadata={'format': 'pt'}))
        else:
            write_atomically(path, lambda temporary: writers.write_torch(temporary, state))
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror} -> choose another file') from error
    for note in [*notes, f'input: {pixels.describe(encoder.policy)}']:
        say(f'note: {note}')


def torch_state(encoder: Encoder) -> tuple[dict[str, np.ndarray], list[str]]:
    """A state dict under torchvision's or timm's names, and what a user of it must know.

    Raises:
      UserError: torchvision and timm have no such network.
    """
    module, flat = encoder.module, encoder.flat
    name = encoder.architecture['name']
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
        raise UserError(f'{name} has no counterpart in torchvision or timm -> write a .safetensors file of ours')
    state = {}
    for path, theirs in names.torch_names(flat).items():
        state[theirs] = names.to_torch(path, flat[path])
        if theirs.endswith('running_var'):
            state[theirs.replace('running_var', names.COUNTER)] = np.array(0, np.int64)
    if isinstance(module, VisionTransformer) and module.position == 'sincos':
        side = encoder.image_size // module.patch_size
        state[architecture.POSITION] = sincos_position(side, side, module.width)[None].astype(np.float32)
    return state, notes


def detectron2_state(encoder: Encoder, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays under Detectron2's names.

    Raises:
      UserError: the encoder is not a ResNet.
    """
    if not isinstance(encoder.module, ResNet):
        raise UserError(f'{encoder.architecture["name"]} is not a ResNet, the only encoder that Detectron2 can load')
    return {names.detectron2_name(name): x for name, x in state.items() if not name.endswith(names.COUNTER)}


def _notes_on_resnet(name: str, module: ResNet) -> list[str]:
    """What a user of torchvision must know.

    Raises:
      UserError: torchvision has no such ResNet, so its features would differ.
    """
    if module.padding != 'torch' or module.sk_ratio:
        what = 'selective kernels' if module.sk_ratio else f'padding {module.padding!r}'
        raise UserError(f"{name} has {what}, unlike torchvision's ResNets -> write a .safetensors file of ours")
    notes = ['torchvision: set model.fc = torch.nn.Identity()']
    if module.stem == 'cifar':
        notes.append('the stem is a 3x3 convolution of stride 1 without max-pool: change conv1 and maxpool accordingly')
    if module.bn_epsilon != EPSILON:
        notes.append(f'the batch norms have eps={module.bn_epsilon:g}: set it in every BatchNorm2d')
    return notes
