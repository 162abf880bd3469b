"""kNN, linear probe, features and checkpoints, compared with the libraries that users of PyTorch have.

    pip install torch torchvision faiss-cpu
    python -m benchmarks.evaluation [--only knn,probe,features,checkpoint] [--windows 5]

Each window runs every program once, in turn. Times are CPU seconds of the whole process, all threads together; a ratio
is that of one window, above 1 where ours is faster. benchmarks/README.md has the results.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from torch import nn

from benchmarks.measure import Spread
from contrastive_jax.config.load import load
from contrastive_jax.data.sources import ArraySource
from contrastive_jax.distributed.devices import REPLICATED, find_devices
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.evaluate.knn import knn_accuracy
from contrastive_jax.evaluate.linear import L2, MAX_ITERATIONS, TOLERANCE, linear_probe
from contrastive_jax.training.build import build_run
from contrastive_jax.training.step import init_state
from contrastive_jax.workdir.checkpoint import Checkpoints

CLASSES = 10
Call = Callable[[], Any]


def clustered(n: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, dim] of classes that overlap, not negative as after a ReLU, and their labels."""
    centers = np.random.default_rng(0).standard_normal((CLASSES, dim), np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n).astype(np.int32)
    return np.maximum(0.3 * centers[labels] + rng.standard_normal((n, dim), np.float32), 0), labels


def knn(n: int = 50_000, queries: int = 2_000, dim: int = 512, k: int = 200) -> dict[str, Call]:
    """Weighted kNN, by matrix product and top-k in torch, and by faiss' exact index."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    (train, labels), (test, test_labels) = clustered(n, dim, 1), clustered(queries, dim, 2)

    def with_torch() -> float:
        unit, wanted = torch.nn.functional.normalize(torch.from_numpy(train)), torch.from_numpy(test_labels)
        hits = 0
        for rows, truth in zip(torch.from_numpy(test).split(1000), wanted.split(1000), strict=True):
            similarity, nearest = (torch.nn.functional.normalize(rows) @ unit.T).topk(k)
            votes = torch.zeros(len(rows), CLASSES)
            votes.scatter_add_(1, torch.from_numpy(labels).long()[nearest], (similarity / 0.07).exp())
            hits += int((votes.argmax(1) == truth).sum())
        return hits / queries

    def with_faiss() -> float:
        index = faiss.IndexFlatIP(dim)
        index.add(train / np.linalg.norm(train, axis=1, keepdims=True))
        similarity, nearest = index.search(test / np.linalg.norm(test, axis=1, keepdims=True), k)
        weight = np.exp(similarity / 0.07)
        votes = np.stack([(weight * (labels[nearest] == c)).sum(1) for c in range(CLASSES)], 1)
        return float((votes.argmax(1) == test_labels).mean())

    return {
        'ours': lambda: knn_accuracy(train, labels, test, test_labels, CLASSES, k=k)['top1'],
        'torch': with_torch,
        'faiss-cpu': with_faiss,
    }


def probe(n: int = 10_000, dim: int = 512) -> dict[str, Call]:
    """The linear probe, and scikit-learn's logistic regression with the same penalty and tolerance."""
    from sklearn.linear_model import LogisticRegression

    (train, labels), (test, test_labels) = clustered(n, dim, 1), clustered(n // 5, dim, 2)

    def with_sklearn() -> dict[str, float]:
        mean, std = train.mean(0), train.std(0)
        x = (train - mean) / std
        model = LogisticRegression(C=1 / (L2 * n), max_iter=MAX_ITERATIONS, tol=TOLERANCE).fit(x, labels)
        p = model.predict_proba(x)[np.arange(n), labels]
        loss = -np.log(p).mean() + L2 / 2 * np.sum(model.coef_**2)
        top1 = model.score((test - mean) / std, test_labels)
        return {'top1': top1, 'train_loss': float(loss), 'iterations': int(model.n_iter_[0])}

    return {'ours': lambda: linear_probe(train, labels, test, test_labels, CLASSES), 'scikit-learn': with_sklearn}


def resnet18() -> nn.Module:
    """torchvision's ResNet-18 with the stem for 32 pixels and without classifier."""
    import torchvision

    network: Any = torchvision.models.resnet18(weights=None)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool, network.fc = nn.Identity(), nn.Identity()
    return network.to(memory_format=torch.channels_last)


def features(n: int = 512, batch: int = 128) -> dict[str, Call]:
    """Features of images of 32 pixels by a ResNet-18."""
    run = build_run(load('configs/mocov2.py:cifar10'), 50_000)
    state = jax.jit(lambda: init_state(run))()
    images = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), np.uint8)
    devices = find_devices('jit', 1)
    extract = FeatureExtractor(run.method.network, run.policy, devices, image_size=32, batch_size=batch)
    parts = state.params['encoder'], state.method.batch_stats['online']['encoder']
    params, stats = (devices.place(jax.tree.map(np.array, part), REPLICATED) for part in parts)
    source = ArraySource(images, np.zeros(n, np.int32))
    network = resnet18().eval()

    @torch.inference_mode()
    def with_torch() -> list[torch.Tensor]:
        batches = torch.from_numpy(images).permute(0, 3, 1, 2).split(batch)
        return [network((x.float() / 255 - 0.5) / 0.25) for x in batches]

    return {'ours': lambda: extract(params, stats, source, np.arange(n)), 'torch': with_torch}


def checkpoint(folder: Path) -> dict[str, Call]:
    """A checkpoint of MoCo v2 with a ResNet-18: two encoders, momentum of one, 4,096 keys."""
    run = build_run(load('configs/mocov2.py:cifar10'), 50_000)
    devices = find_devices('jit', 1)
    state = devices.place(jax.tree.map(np.array, jax.jit(lambda: init_state(run))()), run.state_specs)
    checkpoints = Checkpoints(folder, devices, run.state_specs)
    steps = iter(range(1, 10_000))
    held: list[float] = []

    def ours() -> str:
        start = time.perf_counter()
        checkpoints.save(next(steps), state)
        held.append(time.perf_counter() - start)
        checkpoints.wait()
        return f'the caller waited {1e3 * held[-1]:.0f} ms'

    online, target = resnet18(), resnet18()
    optimizer = torch.optim.SGD(online.parameters(), lr=0.03, momentum=0.9)
    online(torch.zeros(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    queue = torch.zeros(128, 4096)

    def with_torch() -> None:
        parts = {'online': online.state_dict(), 'target': target.state_dict(), 'optimizer': optimizer.state_dict()}
        torch.save({**parts, 'queue': queue}, folder / 'state.pt')

    return {'ours': ours, 'torch.save': with_torch}


def compare(title: str, programs: dict[str, Call], windows: int) -> None:
    """Prints the results, the times and the ratios of the programs; the first is ours."""
    print(f'\n{title}', flush=True)
    for name, call in programs.items():  # compiles
        result = call()
        print(f'  {name}: {result}' if isinstance(result, float | dict | str) else f'  {name}')
    seconds = np.array([[cpu_seconds(call) for call in programs.values()] for _ in range(windows)])
    for i, name in enumerate(programs):
        time_of, ratio = Spread.of(seconds[:, i]), Spread.of(seconds[:, i] / seconds[:, 0])
        print(
            f'  {name:14} {time_of.median:7.3f} s [{time_of.low:.3f}, {time_of.high:.3f}]'
            f'   ratio {ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]',
            flush=True,
        )


def cpu_seconds(call: Call) -> float:
    start = time.process_time()
    jax.block_until_ready(call())
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument('--only', default='knn,probe,features,checkpoint', help='comma-separated parts')
    parser.add_argument('--windows', type=int, default=5, help='timed calls of each program')
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(
        f'{len(os.sched_getaffinity(0))} core(s), jax {jax.__version__}, torch {torch.__version__}, n = {args.windows}'
    )
    parts: dict[str, Callable[[Path], dict[str, Call]]] = {
        'knn': lambda _: knn(),
        'probe': lambda _: probe(),
        'features': lambda _: features(),
        'checkpoint': checkpoint,
    }
    for name in args.only.split(','):
        with tempfile.TemporaryDirectory() as folder:
            compare(name, parts[name](Path(folder)), args.windows)


if __name__ == '__main__':
    main()
