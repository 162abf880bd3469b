#!/usr/bin/env bash
# torch.nn.functional.interpolate with mode='bicubic': `antialias` also changes the kernel, from a = -0.75 to a = -0.5.
# An image that is enlarged has nothing to filter, yet its values change with the flag. With antialias=True they are
# those of Pillow's BICUBIC and of jax.image.resize; with the default, antialias=False, they are of no other library here.
# Position embeddings of ViTs are interpolated this way, so their values depend on a flag that should not matter.
# Guess: antialias matters only where an image becomes smaller.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 jax==0.10.2 pillow==12.0.0 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import numpy as np
import PIL
import torch
import torch.nn.functional as F
from PIL import Image

x = np.zeros((1, 9), np.float32)
x[0, 4] = 1
wide = (1, 36)
pillow = np.asarray(Image.fromarray(x).resize((36, 1), Image.Resampling.BICUBIC))
results = {
    'jax': np.asarray(jax.image.resize(x, wide, 'bicubic')),
    'torch, antialias=True': F.interpolate(torch.tensor(x)[None, None], wide, mode='bicubic', antialias=True)[0, 0].numpy(),
    'torch, antialias=False': F.interpolate(torch.tensor(x)[None, None], wide, mode='bicubic')[0, 0].numpy(),
}
print('torch', torch.__version__, 'jax', jax.__version__, 'Pillow', PIL.__version__)
print('Pillow: smallest value', pillow.min())
apart = {name: float(np.abs(value - pillow).max()) for name, value in results.items()}
for name, value in results.items():
    print(f'{name}: smallest value {value.min():.4f}, largest difference from Pillow {apart[name]:.4f}')
assert apart['jax'] < 1e-6 and apart['torch, antialias=True'] < 1e-6, apart
assert abs(apart['torch, antialias=False'] - 0.0366) < 1e-3, apart
print('as described')
PY
