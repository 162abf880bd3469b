"""Converts weights between formats: python -m contrastive_jax.convert IN OUT

    python -m contrastive_jax.convert moco_v2_800ep_pretrain.pth.tar r50.safetensors
    python -m contrastive_jax.convert r50.safetensors r50.pth

IN is one of:
  - a checkpoint of MoCo v1-v3, SimSiam, SwAV, DeepCluster-v2, DINO, InstDis or CMC, or a state dict of torchvision or
    timm, as .pth, .safetensors or .npz; a .pkl file of BYOL; or model.ckpt-NUMBER.index of SimCLR, which needs
    TensorFlow installed;
  - a file of ours, the workdir of a run, or a folder with config.json and model.safetensors.

The ending of OUT decides the format:
  - .safetensors: a file of ours;
  - .pth or .pt: a state dict under torchvision's or timm's names, for load_state_dict(strict=True) of a model without
    classifier;
  - .py: a PyTorch module that needs torch alone, with its weights in a file beside it: for every network of ours, also
    those that torchvision and timm do not have; it includes the input normalization;
  - .pkl: a ResNet for Detectron2;
  - .onnx: maps float32 images [B, 3, H, W], RGB in [0, 1], to features [B, D]; it includes the input normalization;
  - .jaxexport: the same for uint8 images [B, H, W, 3], for jax.export.deserialize, on CPUs, CUDA GPUs and TPUs;
  - / or none: a folder in the layout of the Hugging Face Hub, with a model card, for timm's create_model or, with
    --names=transformers, for AutoModel of transformers.

The format of IN is detected. Every parameter must map to the encoder or belong to a known head or queue; what is
skipped and what is assumed is listed. No code in a pickle runs. PyTorch is not needed.

Files of this library record the input normalization. Others do not; the paper's is assumed unless --pixels is given:
  imagenet  minus ImageNet's mean, divided by its std; the default for torchvision and timm
  half      to [-1, 1]: timm's ViTs with mean and std 0.5 (augreg)
  unit      to [0, 1]: SimCLR
  lab       the Lab color space: CMC

Exit codes: 0 written, 2 a mistake in the arguments or the file, 5 no checkpoint that can be read.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contrastive_jax.augment.policy import MAX_CHANNELS
from contrastive_jax.errors import UserError, exit_code_of
from contrastive_jax.pretrained import export, forms, pixels
from contrastive_jax.pretrained.encoder import WEIGHTS
from contrastive_jax.pretrained.load import load


def convert(given: argparse.Namespace) -> None:
    """Reads the encoder, writes it, and prints what was found and skipped."""
    target, source = os.path.expanduser(given.OUT), Path(given.IN).expanduser()
    for file in export.files_of(target):
        if file.exists() and source.exists() and file.samefile(source):
            raise UserError(f'OUT {given.OUT} is the file IN, which would be lost -> choose another OUT')
    if not 0 <= given.channels <= MAX_CHANNELS:
        raise UserError(f'--channels {given.channels} is out of range -> it must be at most {MAX_CHANNELS}')
    export.names_for(target, given.names)  # a mistake is reported before IN is read
    encoder = load(
        given.IN,
        given.weights,
        form=given.form,
        encoder=given.encoder,
        drop=tuple(given.drop),
        pixels=given.pixels,
        section=given.section,
        prefix=given.prefix,
        fields=stem_fields(given),
        step=given.step,
        say=print,
    )
    if given.channels:
        encoder = encoder.with_channels(given.channels)
        print(f'input: {encoder.source}')
    export.write(target, encoder, given.names, say=print)
    print(f'wrote {target}')


def stem_fields(given: argparse.Namespace) -> dict[str, Any]:
    """The fields of the encoder that the options for the stem set."""
    fields = {'stem_stride': given.stem_stride, 'stem_padding': given.stem_padding}
    fields['stem_pool'] = {'': None, 'yes': True, 'no': False}[given.stem_pool]
    return {name: value for name, value in fields.items() if value is not None}


def options() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser('contrastive_jax.convert', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('IN', help='the file, or the workdir of a run')
    parser.add_argument('OUT', help=f'its ending is one of {" ".join(export.SUFFIXES)}')
    parser.add_argument(
        '--weights',
        choices=WEIGHTS,
        help='which network, if IN has two: online, the trained one, or target, its moving average (the target of '
        'BYOL, the key encoder of MoCo, the teacher of DINO); default: online for a run, and for a published '
        'checkpoint the one that its authors evaluate',
    )
    parser.add_argument(
        '--step', default='', help='if IN is a run: the checkpoint by its step, or best; default: the newest'
    )
    parser.add_argument(
        '--form', default='', help=f'the format of IN; default: detected; one of {", ".join(forms.FORMS)}'
    )
    parser.add_argument(
        '--encoder',
        default='',
        help='the encoder in IN, as NAME or NAME,FIELD=VALUE,...; default: detected. Weights do not record the number '
        "of heads of a ViT: MoCo v3's small ViT has 12, those of DINO and timm have 6. If a file of ours holds an "
        'encoder that is a class of your own, name it as package.module:Class',
    )
    parser.add_argument(
        '--section', default='', help='the section of the state dict in IN, such as model_state_dict; default: searched'
    )
    parser.add_argument(
        '--prefix', default='', help="the prefix of the encoder's names in IN, such as backbone.; default: searched"
    )
    parser.add_argument(
        '--drop', action='append', default=[], help='a pattern of names to skip, e.g. "aux.*"; may be repeated'
    )
    parser.add_argument(
        '--stem_stride',
        '--stem-stride',
        type=int,
        help='the stride of the first convolution of a ResNet; default: 2, and 1 if it is 3x3',
    )
    parser.add_argument(
        '--stem_padding',
        '--stem-padding',
        type=int,
        help="the padding of the first convolution of a ResNet; default: half its kernel; solo-learn's 3x3 one has 2",
    )
    parser.add_argument(
        '--stem_pool',
        '--stem-pool',
        choices=('yes', 'no'),
        default='',
        help='whether max-pooling follows the first convolution of a ResNet; default: unless it is 3x3',
    )
    parser.add_argument(
        '--pixels',
        default='',
        help=f'the input normalization of IN; default: that of its format; one of {", ".join(pixels.NORMALIZATIONS)}',
    )
    parser.add_argument(
        '--channels',
        type=int,
        default=0,
        help='the channels of OUT, if IN takes RGB: the first convolution gets its inputs in turn, times 3 / channels, '
        'and for one channel their sum, as timm does; 0: as IN',
    )
    parser.add_argument(
        '--names',
        choices=export.NAMES,
        default='',
        help="whose parameter names OUT has; default: for .safetensors ours, and for a folder timm's",
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Parses the arguments and converts; returns the exit code."""
    return exit_code_of(lambda: convert(options().parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
