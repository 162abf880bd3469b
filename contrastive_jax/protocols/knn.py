"""The kNN protocol: weighted kNN over all training images, for every held-out image."""

import dataclasses
from pathlib import Path

import jax
from ml_collections import ConfigDict

from contrastive_jax.distributed.devices import REPLICATED, Devices
from contrastive_jax.distributed.stopping import heeding
from contrastive_jax.errors import UserError
from contrastive_jax.evaluate.features import FeatureExtractor
from contrastive_jax.evaluate.knn import MIN_TEMPERATURE, knn_accuracy
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.protocols import fields, readout
from contrastive_jax.protocols.base import Asked, Data, Protocol
from contrastive_jax.rules import field
from contrastive_jax.workdir.metrics import MetricWriter


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `knn`."""

    k: tuple[int, ...] = field((20,), 'Numbers of neighbors that vote; each is evaluated.', least=1, min_items=1)
    temperature: float = field(
        0.07, "Temperature of the votes: a neighbor's weight is exp(cosine / temperature).", least=MIN_TEMPERATURE
    )


def check(config: ConfigDict, encoder: Encoder, data: Data) -> int:
    del encoder
    n, most = len(data.train_ids), max(config.knn.k)
    if most > n:
        raise UserError(f'knn.k {most} is more than the {n} labeled training images -> use fewer neighbors')
    return 0


def run(
    config: ConfigDict,
    encoder: Encoder,
    data: Data,
    devices: Devices,
    workdir: Path,
    interrupt: Asked,
) -> dict[str, float]:
    extract = FeatureExtractor(
        encoder.network, encoder.policy, devices, image_size=encoder.image_size, batch_size=config.batch_size
    )
    params, stats = devices.place((encoder.params, encoder.stats), REPLICATED)
    with interrupt() as asked, heeding(lambda: asked.requested):
        train, train_ids = extract(params, stats, data.train, data.train_ids)
        test, test_ids = extract(params, stats, data.test, data.test_ids)
    assert data.train.labels is not None and data.test.labels is not None
    given = (train, data.train.labels[train_ids], test, data.test.labels[test_ids], data.classes)
    found: dict[str, float] = {}
    for k in config.knn.k:
        accuracy = knn_accuracy(*given, k=min(k, len(train)), temperature=config.knn.temperature)
        found |= {f'eval/knn{k}_{name}': value for name, value in accuracy.items()}
    # A repeated evaluation replaces its metrics.
    step = encoder.step or 0
    writer = MetricWriter(workdir, step - 1, enabled=jax.process_index() == 0)
    writer.write(step, found)
    writer.close()
    return found


KNN = Protocol(
    {'': fields.Evaluation, 'data': fields.Data, 'knn': Settings, 'features': readout.Features},
    readout.rules,
    check,
    run,
    resumes=False,
)
