"""Warnings about sizes and lengths that do not fit the data: each alone, and none where nothing is wrong."""

from typing import Any

import pytest

from contrastive_jax.config.advice import advice
from contrastive_jax.data.facts import DataFacts
from tests import train_steps
from tests.config.test_check import change

PHOTOS = DataFacts(images=1000, side=500)

CASES: list[tuple[str, DataFacts, dict[str, Any], str]] = [
    ('mocov2', PHOTOS, {}, 'queue_size 65,536 is larger than the 1,000 training images: each image is its own negative '
     'about 65 times -> use 256 or fewer'),
    ('mocov2', DataFacts(900, 500), {'method.queue_size': 1280}, 'its own negative about 1.4 times'),
    ('nnclr', DataFacts(8192, 500), {}, 'each image is its own neighbor about 12 times -> use 4096 or fewer'),
    ('instdis', PHOTOS, {}, 'num_negatives 4,096 is larger than the 1,000 training images'),
    ('cmc', PHOTOS, {}, 'num_negatives 16,384 is larger than the 1,000'),
    ('dictionary:memory_bank', PHOTOS, {}, 'num_negatives 65,536 is larger than the 1,000'),
    ('simclrv2:memory', PHOTOS, {'batch_size': 8}, 'queue_size 65,536 is larger than the 1,000'),
    ('swav', PHOTOS, {'batch_size': 256}, 'num_prototypes 3,000 is more than the 1,000 training images'),
    ('deepcluster', PHOTOS, {'batch_size': 8}, 'num_prototypes 3,000 is more than the 1,000'),
    ('dino', PHOTOS, {'batch_size': 8}, 'output_dim 65,536 is more than the 1,000'),
    ('swav', PHOTOS, {'batch_size': 256}, 'freeze_steps: prototypes is frozen for 313 steps (104 epochs) of a training '
     'of 300 -> use an epoch, 3 steps'),
    ('dino', PHOTOS, {'batch_size': 8, 'steps': 200}, 'freeze_epochs: last_layer is frozen for 125 steps (1 epochs)'),
    ('mocov3_r50', PHOTOS, {'batch_size': 8, 'epochs': 12.0}, 'rises for 1,250 steps of a training of 1,500'),
    ('mocov1', PHOTOS, {'batch_size': 8, 'epochs': 100.0}, 'begin at epoch 120, after a training of 100 epochs'),
    ('dino:boost', PHOTOS, {'batch_size': 8, 'epochs': 20.0}, 'teacher_warmup_epochs 30 is not reached'),
    ('swav:small_batch', PHOTOS, {'epochs': 10.0}, 'queue_from_epoch 15 is not reached by a training of 10 epochs'),
    ('mocov2', DataFacts(100_000, 32), {}, 'image_size 224: an image of 32 px is enlarged 7 times -> use about 32'),
    ('mocov2:digits', DataFacts(1437, 3), {}, 'an image of 3 px is enlarged 2.7 times'),
    ('mocov2', DataFacts(400, 224), {}, 'an epoch has 1 step: batch_size 256 for 400 images, and 144 of them are '
     'left out -> use at most 80'),
    ('mocov2', DataFacts(32, 224), {'batch_size': 8}, 'batch_size 8 for 32 images -> use more images'),
    ('simclr:cifar10', DataFacts(50_000, 32), {'data.image_size': 16, 'augment.blur': (0.5, 0.5)}, 'augment.blur: '
     "views of 16 px are not blurred, as the kernel of augment.style 'simclrv1' is a tenth of an image wide, here one "
     "pixel -> use augment.style 'pil', or views"),
    ('byol', DataFacts(100_000, 224), {'augment.local_crops': 2, 'augment.local_size': 16}, 'augment.local_blur: views '
     'of 16 px are not blurred'),
    ('cmc', DataFacts(100_000, 224, gray=True), {}, "color_space 'lab' separates lightness from color"),
]  # fmt: skip


@pytest.mark.parametrize(('name', 'facts', 'fields', 'part'), CASES, ids=[f'{c[0]}, {c[3][:30]}' for c in CASES])
def test_each_warning(name: str, facts: DataFacts, fields: dict[str, Any], part: str) -> None:
    (line,) = (line for line in advice(change(name, **fields), facts) if part in line)
    assert line.field and line.remedy


@pytest.mark.parametrize(
    ('name', 'facts'),
    [('mocov2', DataFacts(1_281_167, 375)), ('instdis', DataFacts(1_281_167, 375)), ('swav', DataFacts(1_281_167, 375)),
     ('dino', DataFacts(1_281_167, 375)), ('mocov2:cifar10', DataFacts(50_000, 32)),
     ('cmc:digits', DataFacts(1437, 8, True)), ('mocov2:digits', DataFacts(1437, 8, True)),
     ('swav:digits', DataFacts(1437, 8, True)),
     ('mocov2', DataFacts(1_281_167, 0))],
)  # fmt: skip
def test_recipes_on_their_own_data_get_none(name: str, facts: DataFacts) -> None:
    assert advice(train_steps.load(name), facts) == []
