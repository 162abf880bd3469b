#!/usr/bin/env bash
# faiss.Kmeans.train uses at most 256 points for each centroid, drawn at random, and says nothing of it. The number that
# it returns is the sum of squared distances of the sample, not of the data. DeepCluster's authors raise the limit.
# Guess: as with scikit-learn's KMeans, all points are used and the returned objective is theirs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet faiss-cpu==1.15.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY' 2>errors
import faiss
import numpy as np

n, k = 20_000, 10
x = np.random.default_rng(0).standard_normal((n, 8)).astype(np.float32)
print('faiss', faiss.__version__)
for limit in ({}, {'max_points_per_centroid': n}):
    means = faiss.Kmeans(8, k, niter=5, seed=1, **limit)
    returned = means.train(x)
    of_all = means.index.search(x, 1)[0].sum()
    print(limit or 'default', 'returned', returned, 'of all points', of_all, 'share', returned / of_all)
    expected = 1 if limit else 256 * k / n
    assert abs(returned / of_all - expected) < 0.01, (returned, of_all)
print('as described')
PY
test ! -s errors  # no warning
