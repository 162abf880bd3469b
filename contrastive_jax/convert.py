"""Weights in and out: python -m contrastive_jax.convert IN OUT

    python -m contrastive_jax.convert moco_v2_800ep_pretrain.pth.tar r50.safetensors
    python -m contrastive_jax.convert r50.safetensors r50.pth

IN: a checkpoint of MoCo v1-v3, SimSiam, SwAV, DeepCluster-v2, DINO, InstDis or CMC, or a state dict of torchvision or
timm, as .pth, .safetensors, .npz; BYOL's .pkl; SimCLR's model.ckpt-NUMBER.index, for which TensorFlow must be
installed; or a file of ours, or the workdir of a run. OUT: .safetensors: a file of ours; .pth or .pt: a state dict
under torchvision's or timm's names, for load_state_dict(strict=True) of a model without classifier; .pkl: a ResNet
for Detectron2; .onnx: float32 images [B, 3, H, W], RGB in [0, 1], to features [B, D], normalisation inside. No
PyTorch is needed, and nothing that a file asks for is run.

--pixels tells what weights do not, which pixels they were trained on: imagenet, less ImageNet's mean over its std,
which is taken for torchvision and timm; half, in [-1, 1], for timm's ViTs of 0.5 / 0.5 (augreg); unit, in [0, 1], as
SimCLR's; lab, as CMC's.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import export, published, weights
from contrastive_jax.pretrained.load import load


def convert(given: argparse.Namespace) -> None:
    """Reads, checks and writes; says what it does."""
    target = Path(given.OUT).expanduser()
    names = export.names_for(target, given.names)
    encoder = published.parse_encoder(given.encoder) if given.encoder else None
    made = load(
        given.IN,
        form=given.form,
        encoder=encoder,
        drop=tuple(given.drop),
        network=given.network,
        pixels=given.pixels,
        say=print,
    )
    # The file appears whole or not at all.
    try:
        handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f'.{target.name}.')
        os.close(handle)
    except OSError as error:
        raise UserError(f'cannot write to {target.parent}: {error.strerror} -> choose another OUT') from error
    try:
        export.write(Path(partial), made, target.suffix, names, say=print)
        Path(partial).chmod(0o644)
        Path(partial).replace(target)
    except OSError as error:
        raise UserError(f'cannot write {target}: {error.strerror} -> choose another OUT') from error
    finally:
        Path(partial).unlink(missing_ok=True)
    print(f'wrote {target}')


def main(argv: Sequence[str]) -> int:
    """Parses, converts; returns the exit code."""
    parser = argparse.ArgumentParser('contrastive_jax.convert', description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('IN', help='the file, or the workdir of a run')
    parser.add_argument('OUT', help='.safetensors, .pth, .pt, .pkl or .onnx')
    parser.add_argument('--form', default='', help=f'of IN, otherwise found out: {", ".join(published.FORMS)}')
    parser.add_argument('--encoder', default='', help='otherwise found out: NAME or NAME,FIELD=VALUE,...')
    parser.add_argument('--drop', action='append', default=[], help='names to leave behind, e.g. "aux.*"; repeatable')
    parser.add_argument('--network', choices=('online', 'target'), default='online', help="of a run; BYOL's target")
    parser.add_argument(
        '--pixels', default='', help=f'that IN sees, otherwise taken from its form: {", ".join(weights.SEEN)}'
    )
    parser.add_argument('--names', choices=export.NAMES, help="of OUT; for .safetensors 'ours' is the default")
    try:
        convert(parser.parse_args(argv))
    except UserError as error:
        for line in str(error).splitlines():
            print(f'contrastive_jax: error: {line}', file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
