"""An encoder trained on 8-pixel digits is evaluated on photos of other sizes in a folder with other classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contrastive_jax import features
from contrastive_jax.protocols.run import run_protocol
from contrastive_jax.workdir.reading import read_part
from tests import untrained_workdirs
from tests.protocols.test_linear import evaluate
from tests.protocols.test_run import load, slow_knn
from tests.tiny_configs import get_config

CLASSES = ('ant', 'bee', 'cow')
WIDTH = 3 * 16  # the class tokens of both blocks and the mean of the patch tokens


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DINO's ViT: its positions are learned for 8 pixels."""
    workdir = tmp_path_factory.mktemp('dino')
    untrained_workdirs.save(get_config('dino'), workdir)
    return workdir


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training images and 10 held-out images, none of which is of the class cow."""
    root, rng = tmp_path_factory.mktemp('photos'), np.random.default_rng(0)
    for i in range(58):
        split, label = ('train', i % 3) if i < 48 else ('val', i % 2)
        pixels = rng.integers(0, 256, (14 + i % 5, 20 - i % 3, 3)) // 2
        pixels[..., label] += 100  # a color cast
        file = root / split / CLASSES[label] / f'{i:02}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    return root


@pytest.fixture(scope='module')
def held(run: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The arrays that the command writes for both splits: images of 12 pixels, features of the teacher's two blocks."""
    given = [f'--workdir={run}', '--source=folder', f'--path={photos}', '--image_size=12', '--weights=target']
    found = {}
    for split in ('train', 'val'):
        file = tmp_path_factory.mktemp('features') / f'{split}.npz'
        assert features.main([*given, '--last_blocks=2', '--average_pool', f'--split={split}', str(file)]) == 0
        with np.load(file) as arrays:
            found[split] = dict(arrays)
    assert found['train']['features'].shape == (48, WIDTH) and tuple(found['train']['classes']) == CLASSES
    assert set(found['val']['labels'].tolist()) == {0, 1}
    return found


def of_photos(name: str, run: Path, photos: Path, **changes: Any) -> Any:
    where = {'data.source': 'folder', 'data.path': str(photos), 'data.image_size': 12}
    return load(name, init=str(run), **where, **changes)


TEACHER = {'weights': 'target', 'features.last_blocks': 2, 'features.average_pool': True}


def test_neighbours(run: Path, photos: Path, held: dict[str, Any], tmp_path: Path) -> None:
    found = run_protocol(of_photos('knn', run, photos, **TEACHER, **{'knn.k': (5,)}), str(tmp_path))
    train, test = held['train'], held['val']
    expected = slow_knn(train['features'], train['labels'], test['features'], 5, 0.07) == test['labels']
    assert found['eval/knn5_top1'] == pytest.approx(expected.mean())
    assert json.loads((tmp_path / 'eval' / 'knn.json').read_text())['classes'] == 3


def test_linear_probe(run: Path, photos: Path, held: dict[str, Any], tmp_path: Path) -> None:
    """The accuracy is that of the weights in the checkpoint on the features that the command wrote."""
    one = {'optimizer.learning_rates': (0.1,), 'optimizer.weight_decays': (0.0,), 'epochs': 2.0}
    found = evaluate(of_photos('linear:tiny', run, photos, **TEACHER, **one), tmp_path)
    assert isinstance(found, dict)
    shapes = {'params': {'weight': np.zeros((1, WIDTH, 3), np.float32), 'bias': np.zeros((1, 3), np.float32)}}
    step, state = read_part(tmp_path, shapes, ('params',))
    logits = held['val']['features'] @ state['params']['weight'][0] + state['params']['bias'][0]
    assert step == 6
    assert found['eval/linear_top1'] == pytest.approx((logits.argmax(1) == held['val']['labels']).mean())


def test_fine_tuning(run: Path, photos: Path, tmp_path: Path) -> None:
    """Fine-tuning starts from interpolated positions and learns to classify the colors."""
    changes = {'finetune.labels': 1.0, 'epochs': 20.0, 'optimizer.learning_rate': 0.05}
    found = evaluate(of_photos('finetune:tiny', run, photos, **changes), tmp_path)
    assert isinstance(found, dict) and found['eval/finetune_images'] == 48 and found['eval/finetune_top1'] >= 0.9
    position = {'params': {'encoder': {'pos_embed': np.zeros((1, 37, 16), np.float32)}}}
    assert read_part(tmp_path, position, ('params/encoder/pos_embed',))[0] == 60
