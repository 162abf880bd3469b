#!/usr/bin/env bash
# Parts of lightly that bear the name of a paper's part and compute something else. All of them run without a warning.
# Guess: SwaVPrototypes gives the cosines of features and prototypes, as the prototypes of SwAV do. Seen: it is a linear
# layer with a bias; `normalize()` makes its rows unit vectors and leaves the bias, so that scores are cosine + bias.
# The official layer has none (facebookresearch/swav, src/resnet50.py). Sinkhorn cancels it in the codes; the predictions
# keep it.
# Guess: SplitBatchNorm with S splits of a batch of N computes the statistics of N / S consecutive images, as S devices
# do. Seen: image n is in split n mod S. Only with a shuffled batch, as MoCo has it, this does not matter.
# Guess: NTXentLoss is the loss of SimCLR. Seen: it is half of it, the mean over both views, where the official code
# adds the means of the two views (google-research/simclr, tf2/objective.py). LARS cancels the factor for weights; SGD
# does not.
# Guess: LARS without weight decay adapts the rate of each layer. Seen: it is plain SGD then; parameters with decay 0
# are taken to be biases and norms.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 lightly==1.6.0
"$folder/venv/bin/python" - <<'PY'
import lightly
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from lightly.models.batchnorm import SplitBatchNorm
from lightly.models.modules import SwaVPrototypes
from lightly.utils.lars import LARS

torch.manual_seed(0)
z = F.normalize(torch.randn(6, 8), dim=1)
prototypes = SwaVPrototypes(8, 5)
prototypes.normalize()
layer = prototypes.heads[0]
cosines = z @ F.normalize(layer.weight, dim=1).T
bias = prototypes(z) - cosines
print('SwaVPrototypes: scores - cosines', bias[0].tolist())
assert bias.abs().max() > 0.05
torch.testing.assert_close(bias, layer.bias.expand(6, 5))

x = torch.randn(12, 2, 3, 3)
y = SplitBatchNorm(2, num_splits=3).train()(x)
interleaved = torch.stack([y[s::3].mean((0, 2, 3)) for s in range(3)])
consecutive = torch.stack([part.mean((0, 2, 3)) for part in y.split(4)])
print('SplitBatchNorm: largest mean of splits', interleaved.abs().max().item(), 'of', consecutive.abs().max().item())
assert interleaved.abs().max() < 1e-6 < 1e-2 < consecutive.abs().max()

z1, z2 = (F.normalize(torch.randn(6, 8), dim=1) for _ in range(2))
eye = torch.eye(6, dtype=torch.bool)
def mean_of(a, b):  # the loss of the views a, as in tf2/objective.py
    within = (a @ a.T / 0.5).masked_fill(eye, -torch.inf)
    return F.cross_entropy(torch.cat([a @ b.T / 0.5, within], 1), torch.arange(6))
official, found = mean_of(z1, z2) + mean_of(z2, z1), NTXentLoss(0.5)(z1, z2)
print('NTXentLoss', found.item(), 'official', official.item())
torch.testing.assert_close(2 * found, official)

moved = {}
for decay in (0.0, 1e-12):
    w = torch.nn.Parameter(torch.ones(4, 4))
    w.grad = torch.full((4, 4), 5.0)
    LARS([w], lr=1.0, momentum=0.9, weight_decay=decay).step()
    moved[decay] = (1 - w).mean().item()
print('LARS: step without decay', moved[0.0], 'with a decay of 1e-12', moved[1e-12])
assert abs(moved[0.0] - 5.0) < 1e-5  # lr * gradient
assert abs(moved[1e-12] - 1e-3) < 1e-5  # trust coefficient * |w| / |g| * gradient
print('lightly', lightly.__version__, 'torch', torch.__version__, 'as described')
PY
