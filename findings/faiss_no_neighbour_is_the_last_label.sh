#!/usr/bin/env bash
# faiss' search gives index -1 where there is no neighbor: for a query with NaN, and where k is larger than the index.
# labels[-1] is the label of the last image, so a kNN evaluation counts it without an error; an encoder that has
# diverged gets the accuracy of that class. The similarity beside it is the lowest float32, so exp(s / T) is 0 in weighted votes,
# and a plain majority vote is wrong.
# Guess: an error, or NaN.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet faiss-cpu==1.15.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import faiss
import numpy as np

rng = np.random.default_rng(0)
train = rng.standard_normal((3, 8)).astype(np.float32)
labels = np.array(['cat', 'dog', 'owl'])
index = faiss.IndexFlatIP(8)
index.add(train)
print('faiss', faiss.__version__)
broken = np.full((1, 8), np.nan, np.float32)
similarity, nearest = index.search(broken, 3)
print('a query with NaN:', nearest, similarity, labels[nearest])
assert (nearest == -1).all() and (labels[nearest] == 'owl').all()
assert (similarity == np.finfo(np.float32).min).all()
_, nearest = index.search(train[:1], 5)
print('k = 5 of 3:', nearest, labels[nearest])
assert (nearest[0, 3:] == -1).all()
print('as described')
PY
