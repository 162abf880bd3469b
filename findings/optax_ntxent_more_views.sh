#!/usr/bin/env bash
# optax.losses.ntxent takes labels, so three views of an image can share one. It is SimCLR's NT-Xent for two views. For
# more it is not the supervised contrastive loss (arXiv 2004.11362), whose denominator holds all other views: here the
# denominator of a pair holds that pair and the negatives, but no other positive. A view without a partner gives no
# term, and the mean is over the pairs that remain.
# Guess: with labels of several views it is SupCon; or the mean is over the batch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optax==0.2.8 jax==0.10.2 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import numpy as np
import optax

T = 0.5
z = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
unit = z / np.linalg.norm(z, axis=1, keepdims=True)
e = np.exp(unit @ unit.T / T)
np.fill_diagonal(e, 0)


def mean_of_pairs(labels, all_in_denominator):
    terms = []
    for i in range(len(labels)):
        others = [j for j in range(len(labels)) if j != i]
        negatives = sum(e[i, j] for j in others if labels[j] != labels[i])
        for j in others:
            if labels[j] == labels[i]:
                denominator = e[i].sum() if all_in_denominator else negatives + e[i, j]
                terms.append(-np.log(e[i, j] / denominator))
    return np.mean(terms)


print('optax', optax.__version__)
for labels in ([0, 1, 2, 3, 0, 1, 2, 3], [0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 2, 3, 4, 5, 6]):
    ours, supcon = mean_of_pairs(labels, False), mean_of_pairs(labels, True)
    value = float(optax.losses.ntxent(z, np.array(labels), T))
    print(labels, 'ntxent', value, 'own positive only', ours, 'all views', supcon)
    assert abs(value - ours) < 1e-5
    assert (abs(ours - supcon) > 0.1) == (labels[:3] == [0, 0, 0])
print('as described')
PY
