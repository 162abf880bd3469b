"""Rows of `benchmarks.peers`: kNN, linear probe, features, checkpoints."""

import itertools
import time

import jax
import numpy as np

from benchmarks.sides import Makers, Setting, Side
from contrastive_jax.data.sources import ArraySource
from contrastive_jax.distributed.devices import REPLICATED, find_devices
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.evaluate.knn import knn_accuracy
from contrastive_jax.evaluate.linear import L2, MAX_ITERATIONS, TOLERANCE, linear_probe
from contrastive_jax.reproduce.run_experiment import load_config
from contrastive_jax.training.build import build_run
from contrastive_jax.training.run import Run, TrainState
from contrastive_jax.training.step import init_state
from contrastive_jax.workdir.checkpoint import Checkpoints

CLASSES, DIM = 10, 512
TRAIN, QUERIES, NEIGHBORS, TEMPERATURE = 50_000, 2_000, 200, 0.07  # kNN
PROBED = 10_000
ENCODED, BATCH = 512, 128


def knn(setting: Setting) -> Makers:
    """Weighted kNN, beside a matrix product and top-k in torch, and the exact index of faiss."""
    (train, labels), (test, test_labels) = clustered(TRAIN, 1), clustered(QUERIES, 2)

    def ours() -> Side:
        call = lambda: knn_accuracy(train, labels, test, test_labels, CLASSES, NEIGHBORS, TEMPERATURE)  # noqa: E731
        return Side(call, QUERIES, lambda: f'top-1 {call()["top1"]:.2%}')

    def with_torch() -> Side:
        import torch
        from torch.nn.functional import normalize

        def call() -> float:
            unit, wanted, hits = normalize(torch.from_numpy(train)), torch.from_numpy(test_labels), 0
            for rows, truth in zip(torch.from_numpy(test).split(1000), wanted.split(1000), strict=True):
                similarity, nearest = (normalize(rows) @ unit.T).topk(NEIGHBORS)
                votes = torch.zeros(len(rows), CLASSES)
                votes.scatter_add_(1, torch.from_numpy(labels).long()[nearest], (similarity / TEMPERATURE).exp())
                hits += int((votes.argmax(1) == truth).sum())
            return hits / QUERIES

        return Side(call, QUERIES, lambda: f'top-1 {call():.2%}')

    def with_faiss() -> Side:
        import faiss

        faiss.omp_set_num_threads(1)

        def call() -> float:
            index = faiss.IndexFlatIP(DIM)
            index.add(train / np.linalg.norm(train, axis=1, keepdims=True))
            similarity, nearest = index.search(test / np.linalg.norm(test, axis=1, keepdims=True), NEIGHBORS)
            weight = np.exp(similarity / TEMPERATURE)
            votes = np.stack([(weight * (labels[nearest] == c)).sum(1) for c in range(CLASSES)], 1)
            return float((votes.argmax(1) == test_labels).mean())

        return Side(call, QUERIES, lambda: f'top-1 {call():.2%}')

    return {'ours': ours, 'torch': with_torch, 'faiss-cpu': with_faiss}


def probe(setting: Setting) -> Makers:
    """The linear probe, beside scikit-learn's logistic regression with the same penalty and tolerance."""
    (train, labels), (test, test_labels) = clustered(PROBED, 1), clustered(PROBED // 5, 2)

    def ours() -> Side:
        def remark() -> str:
            found = call()
            return f'loss {found["train_loss"]:.6f} after {found["iterations"]} iterations, top-1 {found["top1"]:.2%}'

        call = lambda: linear_probe(train, labels, test, test_labels, CLASSES)  # noqa: E731
        return Side(call, 1, remark)

    def with_sklearn() -> Side:
        from sklearn.linear_model import LogisticRegression

        def call() -> str:
            mean, std = train.mean(0), train.std(0)
            x = (train - mean) / std
            model = LogisticRegression(C=1 / (L2 * PROBED), max_iter=MAX_ITERATIONS, tol=TOLERANCE).fit(x, labels)
            p = model.predict_proba(x)[np.arange(PROBED), labels]
            loss = -np.log(p).mean() + L2 / 2 * np.sum(model.coef_**2)
            top1 = model.score((test - mean) / std, test_labels)
            return f'loss {loss:.6f} after {int(model.n_iter_[0])} iterations, top-1 {top1:.2%}'

        return Side(call, 1, call)

    return {'ours': ours, 'scikit-learn': with_sklearn}


def features(setting: Setting) -> Makers:
    """Features of images of 32 pixels by a ResNet-18."""
    images = np.random.default_rng(0).integers(0, 256, (ENCODED, 32, 32, 3), np.uint8)

    def ours() -> Side:
        run, state = _moco()
        devices = find_devices('jit', 1)
        extract = FeatureExtractor(run.method.network, run.policy, devices, image_size=32, batch_size=BATCH)
        parts = state.params['encoder'], state.method.batch_stats['online']['encoder']
        params, stats = (devices.place(jax.tree.map(np.array, part), REPLICATED) for part in parts)
        source = ArraySource(images, np.zeros(ENCODED, np.int32))
        return Side(lambda: extract(params, stats, source, np.arange(ENCODED)), ENCODED)

    def with_torch() -> Side:
        import torch

        from benchmarks.torch_moco import resnet18

        network = resnet18().to(memory_format=torch.channels_last).eval()

        @torch.inference_mode()
        def call() -> list[torch.Tensor]:
            batches = torch.from_numpy(images).permute(0, 3, 1, 2).split(BATCH)
            return [network((x.float() / 255 - 0.5) / 0.25) for x in batches]

        return Side(call, ENCODED)

    return {'ours': ours, 'torch': with_torch}


def checkpoint(setting: Setting) -> Makers:
    """A checkpoint of MoCo v2 with a ResNet-18: two encoders, momentum of one, 4,096 keys."""

    def ours() -> Side:
        run, state = _moco()
        devices = find_devices('jit', 1)
        state = devices.place(jax.tree.map(np.array, state), run.state_specs)
        checkpoints = Checkpoints(setting.folder, devices, run.state_specs)
        steps = itertools.count(1)
        held, whole = list[float](), list[float]()

        def call() -> None:
            began = time.perf_counter()
            checkpoints.save(next(steps), state)
            held.append(time.perf_counter() - began)
            checkpoints.wait()
            whole.append(time.perf_counter() - began)

        return Side(call, 1, lambda: f'{_ms(whole)} until all is on disk, the caller is held for {_ms(held)}')

    def with_torch() -> Side:
        import torch

        from benchmarks.torch_moco import DIM, QUEUE, resnet18

        online, target = (torch.nn.Sequential(resnet18(), torch.nn.Linear(512, DIM)) for _ in range(2))
        optimizer = torch.optim.SGD(online.parameters(), lr=0.03, momentum=0.9)
        online(torch.zeros(2, 3, 32, 32)).sum().backward()
        optimizer.step()
        queue, whole = torch.randn(QUEUE, DIM), list[float]()

        def call() -> None:
            began = time.perf_counter()
            parts = {'online': online, 'target': target, 'optimizer': optimizer}
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**state, 'queue': queue}, setting.folder / 'state.pt')
            whole.append(time.perf_counter() - began)

        return Side(call, 1, lambda: f'{_ms(whole)} until all is written, for which the caller is held')

    return {'ours': ours, 'torch.save': with_torch}


def clustered(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, DIM] of classes that overlap, not negative as after a ReLU, and their labels."""
    centers = np.random.default_rng(0).standard_normal((CLASSES, DIM), np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n).astype(np.int32)
    return np.maximum(0.3 * centers[labels] + rng.standard_normal((n, DIM), np.float32), 0), labels


def _moco() -> tuple[Run, TrainState]:
    run = build_run(load_config('mocov2:cifar10', {}), 50_000)
    return run, jax.jit(lambda: init_state(run))()


def _ms(seconds: list[float]) -> str:
    """The median wall time, without that of the first call."""
    return f'{1e3 * float(np.median(seconds[1:])):.0f} ms'
