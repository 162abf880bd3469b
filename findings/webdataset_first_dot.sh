#!/usr/bin/env bash
# WebDataset: the key of a sample is the path up to the FIRST dot of the file name, and the rest is the extension. Photos
# of a camera or a date, trip.001.jpg and trip.002.jpg in one shard, become one sample with the extensions 001.jpg and
# 002.jpg. It has no 'jpg', so a loader that asks for it passes over both photos with handlers that continue, and the data set is
# smaller than its files. Extensions are lowered, IMG_1.JPG gives 'jpg'; keys are not.
# Guess: the extension is what os.path.splitext says, or there is an error about the missing 'jpg'.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet webdataset==1.0.2
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import io
import tarfile
from importlib.metadata import version

import webdataset as wds

names = ['trip.001.jpg', 'trip.002.jpg', 'IMG_1.JPG', 'IMG_1.cls']
with tarfile.open('shard.tar', 'w') as shard:
    for name in names:
        entry = tarfile.TarInfo(name)
        entry.size = len(name)
        shard.addfile(entry, io.BytesIO(name.encode()))
samples = [
    {key: value for key, value in sample.items() if key not in ('__url__', '__local_path__')}
    for sample in wds.WebDataset('shard.tar', shardshuffle=False)
]
print('webdataset', version('webdataset'))
for sample in samples:
    print(sample)
assert samples == [
    {'__key__': 'trip', '001.jpg': b'trip.001.jpg', '002.jpg': b'trip.002.jpg'},
    {'__key__': 'IMG_1', 'jpg': b'IMG_1.JPG', 'cls': b'IMG_1.cls'},
]
images = list(wds.WebDataset('shard.tar', shardshuffle=False, handler=wds.warn_and_continue).to_tuple('jpg', handler=wds.warn_and_continue))
print('samples with a jpg:', len(images), 'of', sum(name.lower().endswith('jpg') for name in names), 'images')
assert len(images) == 1
print('as described')
PY
