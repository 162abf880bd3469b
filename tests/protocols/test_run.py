"""The configs of configs/eval/, and what an evaluation writes and says."""

import dataclasses
import importlib
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from contrastive_jax import features, load_encoder, pretrained
from contrastive_jax.config.overrides import flat
from contrastive_jax.data.open import open_source
from contrastive_jax.distributed.devices import find_devices
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.knn import knn_accuracy
from contrastive_jax.protocols import base
from contrastive_jax.protocols.run import PROTOCOLS, check_protocol, defaults_of, protocol_config, run_protocol
from contrastive_jax.rules import Rules
from contrastive_jax.workdir import metrics
from contrastive_jax.workdir.folder import FREE, open_workdir
from tests import untrained_workdirs
from tests.tiny_configs import get_config

pytestmark = pytest.mark.usefixtures('one_device')

REPOSITORY = Path(__file__).parents[2]
FILES = sorted(path.stem for path in (REPOSITORY / 'configs' / 'eval').glob('[!_]*.py'))


def load(name: str, **changes: Any) -> ConfigDict:
    file, _, variant = name.partition(':')
    config = importlib.import_module(f'contrastive_jax.configs.eval.{file}').get_config(variant)
    config.update_from_flattened_dict(changes)
    return config


def variants_of(file: str) -> list[str]:
    with pytest.raises(UserError) as error:
        load(f'{file}:?')
    return str(error.value).split('choose from ')[1].split(', ')


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MoCo v3, whose target has other weights than the online network; features of a ViT do not all point one way."""
    workdir = tmp_path_factory.mktemp('mocov3')
    untrained_workdirs.save(get_config('mocov3_vit'), workdir)
    return workdir


def few(n: int, path: Path, **arrays: Any) -> dict[str, Any]:
    """Digits as an .npz file: n training images and 8 held-out ones; and the fields that name it."""
    train, test = open_source('digits'), open_source('digits', split='test')
    given = {
        'train_images': train.array[:n],
        'train_labels': train.labels[:n],
        'test_images': test.array[:8],
        'test_labels': test.labels[:8],
    }
    np.savez(path / 'few.npz', **{name: x for name, x in {**given, **arrays}.items() if x is not None})
    return {'data.source': 'npz', 'data.path': str(path / 'few.npz')}


# ================================ every config ================================


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize('file', FILES)
def test_every_variant_is_right_and_documented(file: str) -> None:
    variants = variants_of(file)
    for name in (file, *(f'{file}:{variant}' for variant in variants)):
        named = {field: 'runs/any' for field in ('init', 'teacher') if field in load(name)}
        config = load(name, **named)
        assert config.is_locked and check_protocol(config) == []
        del named['init']
        lacks = 'init is empty -> set it to the workdir of a run, such as runs/digits, or to a file of weights'
        assert check_protocol(load(name, **named)) == [lacks]
    doc = importlib.import_module(f'contrastive_jax.configs.eval.{file}').__doc__
    named = {name for text in re.findall(r'`:?([\w,]+)`', doc) for name in text.split(',')}
    assert named == set(variants)
    assert {load(file).protocol for file in FILES} == set(PROTOCOLS)


SGD = {'optimizer.name': 'sgd', 'optimizer.momentum': 0.9, 'optimizer.nesterov': False, 'linear.init_std': 0.01}
COSINE = {**SGD, 'schedule.name': 'cosine', 'optimizer.learning_rate_batch': 256, 'optimizer.weight_decays': (0.0,)}
DINO = {**COSINE, 'batch_size': 1024, 'epochs': 100.0, 'optimizer.learning_rates': (0.001,)}
CMC = {
    **SGD, 'batch_size': 256, 'epochs': 60.0, 'optimizer.learning_rates': (30.0,), 'schedule.name': 'step',
    'schedule.milestones': (30, 40, 50), 'schedule.factor': 0.2, 'optimizer.weight_decays': (0.0,),
    'optimizer.learning_rate_batch': 0,
}  # fmt: skip
SMALL_RATE = {
    **SGD, 'batch_size': 256, 'epochs': 100.0, 'optimizer.learning_rate_batch': 0,
    'optimizer.weight_decays': (1e-6,), 'schedule.name': 'cosine',
}  # fmt: skip
LINEAR = {
    'mocov2': {
        **SGD, 'batch_size': 256, 'epochs': 100.0, 'optimizer.learning_rates': (30.0,),
        'optimizer.weight_decays': (0.0,), 'optimizer.learning_rate_batch': 0,
        'schedule.name': 'step', 'schedule.milestones': (60, 80),
        'schedule.factor': 0.1,
    },
    'mocov3_r50': {**COSINE, 'batch_size': 1024, 'epochs': 90.0, 'optimizer.learning_rates': (0.1,)},
    'mocov3_vit': {**COSINE, 'batch_size': 1024, 'epochs': 90.0, 'optimizer.learning_rates': (3.0,)},
    'simsiam': {
        **COSINE, 'batch_size': 4096, 'epochs': 90.0, 'optimizer.learning_rates': (0.1,), 'optimizer.name': 'larc',
    },
    'simclr': {
        **COSINE, 'batch_size': 4096, 'epochs': 90.0, 'optimizer.learning_rates': (0.1,), 'optimizer.nesterov': True,
        'optimizer.weight_decays': (1e-6,), 'linear.init_std': 0.0, 'schedule.name': 'cosine_per_step',
    },
    'byol': {
        **COSINE, 'batch_size': 1024, 'epochs': 80.0, 'optimizer.learning_rates': (0.2,), 'optimizer.nesterov': True,
        'schedule.name': 'cosine_per_step',
    },
    'swav': {**SMALL_RATE, 'optimizer.learning_rates': (0.3,)},
    'barlow_twins': {**SMALL_RATE, 'optimizer.learning_rates': (0.1,)},  # --lr-classifier in the official README
    'vicreg': {**SMALL_RATE, 'optimizer.learning_rates': (0.02,)},  # --lr-head in the official README
    'dino': {**DINO, 'features.last_blocks': 4},
    'dino_base': {**DINO, 'features.average_pool': True},
    'dino_resnet50': DINO,
    'cmc': CMC,
    'cmc_v3': {**CMC, 'optimizer.learning_rates': (50.0,)},
}  # fmt: skip


@pytest.mark.parametrize('name', LINEAR)
def test_linear_protocols(name: str) -> None:
    """recipes.md, section 15: random crops of [0.08, 1] and flips; all but DINO's on the features as they are."""
    config = load(f'linear:{name}')
    shared = {'augment.crop_scale': (0.08, 1.0), 'augment.flip': 0.5}
    expected = {**shared, 'features.last_blocks': 1, 'features.average_pool': False, **LINEAR[name]}
    assert {field: Rules(config).value(field) for field in expected} == expected


def test_swav_s_semi_supervised_protocol() -> None:
    """recipes.md, section 9."""
    shared = {
        'batch_size': 256, 'epochs': 20.0, 'schedule.name': 'step', 'schedule.milestones': (12, 16),
        'schedule.factor': 0.2, 'optimizer.momentum': 0.9, 'optimizer.weight_decay': 0.0,
        'optimizer.learning_rate_batch': 0, 'optimizer.nesterov': False,
    }  # fmt: skip
    for name, labels, rate, classifier in (('swav_1', 0.01, 0.02, 5.0), ('swav_10', 0.1, 0.01, 0.2)):
        expected = {**shared, 'optimizer.learning_rate': rate, 'optimizer.classifier_learning_rate': classifier}
        config = load(f'finetune:{name}')
        assert {field: Rules(config).value(field) for field in expected} == expected
        assert config.finetune.labels == labels


SIMCLR = {
    'optimizer.momentum': 0.9, 'optimizer.weight_decay': 0.0, 'schedule.name': 'cosine_per_step',
    'schedule.warmup_epochs': 0.0, 'schedule.final': 0.0, 'finetune.init_std': 0.0, 'finetune.mixup': 0.0,
    'finetune.label_smoothing': 0.0, 'optimizer.clip_norm': 0.0,
}  # fmt: skip
V1 = {
    **SIMCLR, 'batch_size': 4096, 'optimizer.name': 'sgd', 'optimizer.nesterov': True, 'optimizer.learning_rate': 0.05,
    'optimizer.classifier_learning_rate': 0.05, 'optimizer.learning_rate_scaling': 'linear',
    'optimizer.learning_rate_batch': 256, 'finetune.projector_layers': 0,
}  # fmt: skip
V2 = {
    **SIMCLR, 'batch_size': 1024, 'optimizer.name': 'lars_simclr', 'optimizer.nesterov': False,
    'optimizer.learning_rate': 0.005, 'optimizer.classifier_learning_rate': 0.005,
    'optimizer.learning_rate_scaling': 'sqrt',
}  # fmt: skip
DEIT = {
    'optimizer.name': 'adamw', 'optimizer.learning_rate_scaling': 'linear', 'optimizer.learning_rate_batch': 512,
    'schedule.name': 'cosine_per_step', 'schedule.final': 1e-5, 'finetune.label_smoothing': 0.1, 'finetune.labels': 1.0,
    'finetune.projector_layers': 0,
}  # fmt: skip
TRANSFER = {
    **DEIT, 'batch_size': 1024, 'epochs': 100.0, 'optimizer.learning_rate': 3e-4, 'schedule.warmup_epochs': 3.0,
    'optimizer.clip_norm': 0.0, 'data.source': 'tfds', 'data.split': 'train', 'augment.crop_scale': (0.05, 1.0),
}  # fmt: skip
FINETUNE = {
    'simclr_1': {**V1, 'epochs': 60.0, 'finetune.labels': 0.01},
    'simclr_10': {**V1, 'epochs': 30.0, 'finetune.labels': 0.1},
    'simclrv2_1': {**V2, 'epochs': 60.0, 'finetune.labels': 0.01, 'finetune.projector_layers': 1},
    'simclrv2_10': {**V2, 'epochs': 30.0, 'finetune.labels': 0.1, 'finetune.projector_layers': 1},
    'simclrv2_100': {**V2, 'epochs': 30.0, 'finetune.labels': 1.0, 'finetune.projector_layers': 0},
    'simclrv2_1,large': {
        **V2, 'epochs': 60.0, 'optimizer.learning_rate': 0.002, 'optimizer.classifier_learning_rate': 0.002,
    },
    'mocov3_vit': {
        **DEIT, 'batch_size': 512, 'epochs': 150.0, 'optimizer.learning_rate': 5e-4, 'optimizer.weight_decay': 0.05,
        'optimizer.clip_norm': 5.0, 'schedule.warmup_epochs': 5.0, 'finetune.mixup': 0.8, 'finetune.cutmix': 1.0,
        'finetune.drop_path': 0.1,
    },
    'mocov3_cifar10': {
        **TRANSFER, 'optimizer.weight_decay': 0.1, 'finetune.drop_path': 0.1, 'finetune.mixup': 0.8,
        'finetune.cutmix': 1.0, 'data.name': 'cifar10',
    },
    'mocov3_cifar100': {
        **TRANSFER, 'optimizer.weight_decay': 0.1, 'finetune.drop_path': 0.1, 'finetune.mixup': 0.5,
        'finetune.cutmix': 1.0, 'data.name': 'cifar100',
    },
    'mocov3_flowers': {
        **TRANSFER, 'optimizer.weight_decay': 0.3, 'finetune.drop_path': 0.1, 'finetune.mixup': 0.0,
        'finetune.cutmix': 0.0, 'data.name': 'oxford_flowers102', 'data.split': 'train+validation',  # 2,040 images
    },
    'mocov3_pets': {
        **TRANSFER, 'optimizer.weight_decay': 0.1, 'finetune.drop_path': 0.0, 'finetune.mixup': 0.8,
        'finetune.cutmix': 0.0, 'data.name': 'oxford_iiit_pet',
    },
}  # fmt: skip


@pytest.mark.parametrize('name', FINETUNE)
def test_fine_tuning_protocols(name: str) -> None:
    """recipes.md, sections 6 and 8; arXiv 2002.05709, appendix B.5."""
    expected = {'augment.crop_scale': (0.08, 1.0), 'augment.flip': 0.5, **FINETUNE[name]}
    config = load(f'finetune:{name}')
    assert {field: Rules(config).value(field) for field in expected} == expected


def test_simclr_s_distillation() -> None:
    """recipes.md, section 8: batch, optimizer and schedule are those of pre-training."""
    pretraining = importlib.import_module('contrastive_jax.configs.simclrv2').get_config()
    for name, temperature, scratch in (('', 0.1, False), ('big_to_small', 1.0, True)):
        config = load(f'distill:{name}')
        assert (config.distill.temperature, config.distill.scratch, config.epochs) == (temperature, scratch, 400.0)
        assert config.batch_size == pretraining.batch_size and config.optimizer == pretraining.optimizer
        assert config.schedule.warmup_epochs / config.epochs == pretraining.schedule.warmup_epochs / pretraining.epochs
        assert config.schedule.name == pretraining.schedule.name


def test_knn_protocols() -> None:
    """recipes.md, section 15."""
    assert load('knn').knn.to_dict() == {'k': (200,), 'temperature': 0.07}
    assert load('knn:dino').knn.to_dict() == {'k': (10, 20, 100, 200), 'temperature': 0.07}
    for name, temperature in (('projection', 0.07), ('cifar10', 0.1)):  # sections 1, 2 and 5
        config = load(f'knn:{name}')
        assert config.knn.to_dict() == {'k': (200,), 'temperature': temperature}
        assert config.features.projector_layers == 1


# ================================ kNN ================================


def slow_knn(train: np.ndarray, labels: np.ndarray, test: np.ndarray, k: int, T: float) -> np.ndarray:
    """The class with most votes, image by image."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    found = []
    for similarity in unit(test) @ unit(train).T:
        votes = np.zeros(10)
        for i in np.argsort(-similarity)[:k]:
            votes[labels[i]] += np.exp(similarity[i] / T)
        found.append(votes.argmax())
    return np.array(found)


@pytest.mark.parametrize(('weights', 'parallel'), [('online', 'jit'), ('target', 'jit'), ('online', 'pmap')])
def test_knn_says_what_slow_loops_say(
    weights: str, parallel: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load('knn', init=str(run), weights=weights, parallel=parallel, batch_size=100, **{'knn.k': (5, 20)})
    workdir = tmp_path / 'knn'
    found = run_protocol(config, str(workdir))
    encoder = load_encoder(run, weights)
    train, test = open_source('digits'), open_source('digits', split='test')
    h, h_test = np.asarray(encoder(train.array), np.float64), np.asarray(encoder(test.array), np.float64)
    for k in (5, 20):
        accuracy = np.mean(slow_knn(h, train.labels, h_test, k, 0.07) == test.labels)
        assert found[f'eval/knn{k}_top1'] == pytest.approx(accuracy, abs=1.5 / 360)  # one image may be on the edge

    held = json.loads((workdir / 'eval' / 'knn.json').read_text())
    assert {name: held[name] for name in found} == found
    assert (held['step'], held['train_images'], held['test_images'], held['classes']) == (3, 1437, 360, 10)
    assert held['init'] == str(run) and held['weights'] == weights
    assert metrics.read(workdir) == [{'step': 3, **found}]
    assert list(workdir.glob('events.*'))
    assert f'knn5_top1 on 360 held-out images of digits: {found["eval/knn5_top1"]:.1%}' in capsys.readouterr().out


def test_the_same_command_again_replaces_its_numbers(run: Path, tmp_path: Path) -> None:
    config = load('knn', init=str(run), **few(30, tmp_path), **{'knn.k': (5,)})
    first, again = (run_protocol(config, str(tmp_path / 'knn')) for _ in range(2))
    assert first == again and len(metrics.read(tmp_path / 'knn')) == 1


def test_images_without_a_label_are_left_out(run: Path, tmp_path: Path) -> None:
    labels = open_source('digits').labels[:30].copy()
    labels[[0, 7]] = -1
    config = load('knn', init=str(run), **few(30, tmp_path, train_labels=labels), **{'knn.k': (28,)})
    run_protocol(config, str(tmp_path / 'knn'))
    assert json.loads((tmp_path / 'knn' / 'eval' / 'knn.json').read_text())['train_images'] == 28


def test_knn_of_projections(run: Path, tmp_path: Path) -> None:
    """To the last bit those of `features.extract`: untrained projections are too close together for slow loops."""
    data = few(30, tmp_path)
    config = load('knn', init=str(run), **data, **{'knn.k': (5,), 'features.projector_layers': 2})
    encoder, h = load_encoder(run, projector_layers=2).projected(), {}
    for split in ('train', 'test'):
        source = open_source('npz', path=data['data.path'], split=split)
        h[split] = features.extract(encoder, source, find_devices('jit'), config.batch_size)
    given = (h[split][name] for split in h for name in ('features', 'labels'))
    expected = knn_accuracy(*given, 10, k=5)
    found = run_protocol(config, str(tmp_path / 'knn'))
    assert found == {f'eval/knn5_{name}': value for name, value in expected.items()}
    assert h['train']['features'].shape == (30, 16)


def test_classes_without_a_training_image(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = open_source('digits').labels[:30], open_source('digits', split='test').labels[:8]
    labels = np.where(np.isin(train, test[:2]), 9 - train, train)
    unseen = int((~np.isin(test, labels)).sum())
    assert 0 < unseen < 8
    config = load('knn', init=str(run), **few(30, tmp_path, train_labels=labels), **{'knn.k': (5,)})
    run_protocol(config, str(tmp_path / 'knn'))
    assert (
        f'{unseen} test images belong to classes absent from the training split; they always count as errors'
        in capsys.readouterr().out
    )


def test_the_command(run: Path, tmp_path: Path) -> None:
    given = ['--config=configs/eval/knn.py:digits', f'--config.init={run}', f'--workdir={tmp_path / "knn"}']
    command = [sys.executable, '-m', 'contrastive_jax.main']
    child = subprocess.run([*command, *given], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert child.returncode == 0 and child.stderr == '' and 'knn20_top1 on 360' in child.stdout
    given = [f'{arg}_no' if 'init' in arg else arg for arg in given]
    child = subprocess.run([*command, *given], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert child.returncode == 2 and child.stderr.count('\n') == 1 and 'give the workdir of a run' in child.stderr


# ================================ what is wrong ================================


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize(
    ('changes', 'line'),
    [
        (
            {'protocol': 'kn'},
            "protocol 'kn' is unknown; did you mean 'knn'? -> choose from knn, linear, finetune, distill",
        ),
        ({'weights': 'teacher'}, "weights 'teacher' is unknown"),
        ({'parallel': 'xmap'}, "parallel 'xmap' is unknown"),
        ({'batch_size': 0}, 'batch_size 0 is out of range'),
        ({'data.image_size': -1}, 'data.image_size -1 is out of range'),
        ({'features.last_blocks': 0}, 'features.last_blocks 0 is out of range'),
        ({'features.projector_layers': -1}, 'features.projector_layers -1 is out of range'),
        (
            {'features.projector_layers': 1, 'features.last_blocks': 4},
            'features.projector_layers 1 needs the features',
        ),
        ({'data.source': 'digit'}, "data.source 'digit' is unknown; did you mean 'digits'?"),
        ({'data.path': 'x.npz'}, 'data.path is given without data.source'),
        ({'knn.k': ()}, 'knn.k () is empty'),
        ({'knn.k': (0,)}, 'knn.k (0,) is out of range'),
        ({'knn.temperature': 0.001}, 'knn.temperature 0.001 is out of range'),
    ],
)
def test_impossible_values(changes: dict[str, Any], line: str) -> None:
    (found,) = check_protocol(load('knn', init='runs/any', **changes))
    assert found.startswith(line) and ' -> ' in found


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize(
    ('changes', 'line'),
    [
        ({'optimizer.name': 'adam'}, "optimizer.name 'adam' is unknown"),
        ({'optimizer.learning_rates': ()}, 'optimizer.learning_rates () is empty'),
        ({'optimizer.learning_rates': (1.0, 0.0)}, 'optimizer.learning_rates (1.0, 0.0) is out of range'),
        ({'optimizer.weight_decays': (-1.0,)}, 'optimizer.weight_decays (-1.0,) is out of range'),
        ({'optimizer.learning_rate_batch': -1}, 'optimizer.learning_rate_batch -1 is out of range'),
        ({'optimizer.momentum': 1.5}, 'optimizer.momentum 1.5 is out of range'),
        ({'schedule.name': 'cosin'}, "schedule.name 'cosin' is unknown; did you mean 'cosine'?"),
        ({'schedule.factor': 0.0}, 'schedule.factor 0.0 is out of range'),
        ({'schedule.milestones': (0,)}, 'schedule.milestones (0,) is out of range'),
        ({'linear.selection': 0.0}, 'linear.selection 0.0 is out of range'),
        ({'linear.init_std': -1.0}, 'linear.init_std -1.0 is out of range'),
        ({'epochs': 0.0}, 'epochs 0.0 is out of range'),
        ({'seed': -1}, 'seed -1 is out of range'),
        ({'augment.flip': 2.0}, 'augment.flip 2.0 is out of range'),
        ({'augment.crop_scale': (0.0, 1.0)}, 'augment.crop_scale (0.0, 1.0) is out of range'),
        ({'log_every_steps': 0}, 'log_every_steps 0 is out of range'),
        ({'eval_every_steps': -1}, 'eval_every_steps -1 is out of range'),
        ({'batch_size': 12}, 'batch_size 12 is not divisible by 8 devices'),
    ],
)
def test_impossible_values_of_the_probe(changes: dict[str, Any], line: str) -> None:
    (found,) = check_protocol(load('linear', init='runs/any', **changes), 8)
    assert found.startswith(line) and ' -> ' in found


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('finetune.labels', 0.0),
        ('finetune.labels', 1.5),
        ('finetune.init_std', -1.0),
        ('optimizer.learning_rate', 0.0),
        ('optimizer.classifier_learning_rate', 0.0),
        ('optimizer.weight_decay', -1.0),
        ('optimizer.clip_norm', -1.0),
        ('finetune.projector_layers', -1),
        ('finetune.label_smoothing', 1.0),
        ('finetune.drop_path', 1.0),
        ('finetune.mixup', -0.1),
        ('finetune.cutmix', float('nan')),
        ('schedule.warmup_epochs', 21.0),
    ],
)
def test_impossible_values_of_fine_tuning(field: str, value: float) -> None:
    config = load('finetune', init='runs/any', **{'schedule.name': 'cosine_per_step', field: value})
    (found,) = check_protocol(config, 8)
    assert found.startswith(f'{field} {value} is out of range -> ')


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize('name', ['linear', 'finetune', 'distill'])
def test_trackers_are_checked(name: str) -> None:
    given = {field: 'runs/any' for field in ('init', 'teacher') if field in load(name)}
    found = check_protocol(load(name, **given, trackers=('wandbb',), tracker_project=' '), 8)
    assert [line.split(' -> ')[0] for line in found] == [
        "trackers 'wandbb' is unknown; did you mean 'wandb'?",
        "tracker_project ' ' is empty",
    ]


@pytest.mark.usefixtures('nothing_compiled')
def test_a_warm_up_of_steps() -> None:
    found = check_protocol(
        load('finetune', init='runs/any', **{'schedule.warmup_epochs': 1.0, 'optimizer.name': 'lars'})
    )
    assert len(found) == 2 and "optimizer.name 'lars' is unknown" in found[0]
    assert found[1].startswith("schedule.name 'step' has no warm-up and no final rate -> ")


@pytest.mark.parametrize('name', PROTOCOLS)
def test_a_workdir_of_an_older_version(name: str, tmp_path: Path) -> None:
    """Each field in turn is missing, as in the workdir of a version that did not have it: its default is compared."""
    config = load(name, **{field: 'runs/any' for field in ('init', 'teacher') if field in load(name)})
    stored, base, defaults = flat(config), flat(protocol_config(name)), defaults_of(config)
    assert set(defaults) == set(stored), 'every field has a default'
    for field, value in stored.items():
        older = json.loads(config.to_json())
        *sections, last = field.split('.')
        del (older[sections[0]] if sections else older)[last]
        (tmp_path / 'config.json').write_text(json.dumps(older))
        changed = json.loads(json.dumps(value)) != json.loads(json.dumps(base[field])) and field not in FREE
        if changed or field == 'protocol':
            with pytest.raises(UserError, match=f'another config .{field}: '):
                open_workdir(str(tmp_path), config, defaults=defaults)
        else:
            open_workdir(str(tmp_path), config, defaults=defaults)
            assert json.loads((tmp_path / 'config.json').read_text()) == json.loads(config.to_json())


def test_a_config_that_lacks_fields() -> None:
    config = ConfigDict({'protocol': 'knn', 'data': {}, 'knn': {'k': (1,)}})
    (line,) = check_protocol(config)
    assert 'init' in line and 'data.split' in line and 'knn.temperature' in line


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize(
    ('arrays', 'line'),
    [
        ({'train_labels': None}, 'the training images of few have no labels'),
        ({'test_labels': None}, 'the held-out images of few have no labels'),
        ({'train_labels': np.zeros(30, int)}, 'all training images of few are of one class'),
        (
            {'train_labels': np.arange(30) * 10**7 + 1},
            'have the classes 2, 3, 4, ..., the training images 1, 10000001, ',
        ),
        (
            {'test_labels': np.full(8, 37)},
            'have the classes 37, the training images 0, 1, 2, ..., and no class in common',
        ),
        ({}, 'knn.k 200 is more than the 30 labeled training images'),
    ],
)
def test_data_that_does_not_serve(arrays: dict[str, Any], line: str, run: Path, tmp_path: Path) -> None:
    config = load('knn', init=str(run), **few(30, tmp_path, **arrays))
    with pytest.raises(UserError, match=line):
        run_protocol(config, str(tmp_path / 'knn'))
    assert not (tmp_path / 'knn').exists()


@pytest.mark.usefixtures('nothing_compiled')
@pytest.mark.parametrize(
    ('changes', 'line'),
    [
        ({'step': '4'}, 'there is no checkpoint of step 4 in .* -> choose from 3$'),
        ({'step': 'last'}, "step 'last' is neither a number nor 'best'"),
        ({'features.projector_layers': 4}, 'projector_layers 4: the projector of .* has 3 -> use 0 to 3'),
        ({'features.last_blocks': 3}, 'the last 3 blocks: the ViT has 2 -> last_blocks=1 to 2'),
        (
            {'data.image_size': 9},
            'images of 9 pixels for vit_tiny: image size 9 is not divisible by patch_size 4; use 8 or 12',
        ),
    ],
)
def test_an_encoder_that_does_not_serve(changes: dict[str, Any], line: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        run_protocol(load('knn', init=str(run), **changes), str(tmp_path / 'knn'))
    assert not (tmp_path / 'knn').exists()


@pytest.mark.usefixtures('nothing_compiled')
def test_files_that_do_not_serve(run: Path, tmp_path: Path) -> None:
    """A pickle that would run something, and files that end too early or hold something else."""
    canary = tmp_path / 'canary'

    class Harm:
        def __reduce__(self) -> Any:
            return os.system, (f'touch {canary}',)

    pretrained.save(tmp_path / 'cut.safetensors', pretrained.load(run))
    os.truncate(tmp_path / 'cut.safetensors', (tmp_path / 'cut.safetensors').stat().st_size // 2)
    (tmp_path / 'harm.pth').write_bytes(pickle.dumps({'state_dict': {'conv1.weight': Harm()}}))
    (tmp_path / 'words.pth').write_text('weights')
    for file, line in (
        ('cut.safetensors', 'cannot be read: it is damaged'),
        ('harm.pth', r'its pickle imports \w+.system, which weight files do not need: it is refused'),
        ('words.pth', 'cannot be read: it is text -> '),
        ('none.pth', 'does not exist -> give the workdir of a run, or a file of weights'),
    ):
        for name in PROTOCOLS:
            config = protocol_config(name)
            config.init, config.data.source = str(tmp_path / file), 'digits'
            if name == 'distill':
                config.teacher = 'runs/any'
            with pytest.raises(UserError, match=line):
                run_protocol(config, str(tmp_path / 'evaluation'))
    assert not canary.exists() and not (tmp_path / 'evaluation').exists()


def test_no_target_and_the_workdir_of_the_run(tmp_path: Path) -> None:
    untrained_workdirs.save(get_config('simsiam'), tmp_path / 'run')
    with pytest.raises(UserError, match='simsiam keeps no moving average of its encoder -> '):
        run_protocol(load('knn', init=str(tmp_path / 'run'), weights='target'), str(tmp_path / 'knn'))
    with pytest.raises(UserError, match='is that of the run'):
        run_protocol(load('knn', init=str(tmp_path / 'run')), str(tmp_path / 'run'))


def test_a_file_of_weights(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the place of the run: the same numbers, once it is told which data."""
    file = tmp_path / 'encoder.safetensors'
    pretrained.save(file, pretrained.load(run))
    config = load('knn:digits', init=str(file))
    with pytest.raises(UserError, match=r'is a file of weights, which does not record its data -> set data\.source'):
        run_protocol(config, str(tmp_path / 'knn'))
    assert features.main([f'--workdir={file}', str(tmp_path / 'x.npz')]) == 2
    assert 'is a file of weights, which does not record its data' in capsys.readouterr().err
    config.data.source = 'digits'
    found = run_protocol(config, str(tmp_path / 'knn'))
    assert found == run_protocol(load('knn:digits', init=str(run)), str(tmp_path / 'of_run'))


def test_data_holds_what_it_says(run: Path) -> None:
    data = base.load_data(load('knn'), load_encoder(run))
    assert [field.name for field in dataclasses.fields(data)] == [
        'train',
        'test',
        'train_ids',
        'test_ids',
        'classes',
        'unseen_classes',
    ]
    assert (len(data.train_ids), len(data.test_ids), data.classes) == (1437, 360, 10)


def test_images_of_the_run_keep_its_value_range(tmp_path):
    """A run on images of 12 bits says that 4095 is white; its evaluation reads them alike."""
    for split, name in itertools.product(('train', 'test'), 'ab'):
        (tmp_path / split / name).mkdir(parents=True)
        for i in range(2):
            gray = {'train': 2047, 'test': 2045}[split]  # both are 127 of 255, and the splits are not the same images
            Image.fromarray(np.full((8, 8), gray, np.uint16)).save(tmp_path / split / name / f'{i}.png')
    config = protocol_config('knn')
    of_run = ConfigDict({'data': {'source': 'folder', 'name': '', 'path': str(tmp_path), 'value_range': 4095.0}})
    data = base.load_data(config, types.SimpleNamespace(config=of_run, image_size=8, channels=3))
    assert data.train.image(0).mean() == data.test.image(0).mean() == 127
