"""The model card of an encoder: how it is loaded, what it was trained on, and what was measured."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

import contrastive_jax
from contrastive_jax.evaluate.verdict import comparable, few, first_weights
from contrastive_jax.methods import find_method
from contrastive_jax.models.vit import VisionTransformer
from contrastive_jax.pretrained import pixels
from contrastive_jax.pretrained.encoder import Encoder
from contrastive_jax.workdir import about, metrics

MEASURED = {'eval/knn_top1': 'kNN, top-1', 'eval/probe_top1': 'linear probe, top-1'}
PIXELS = {'eval/knn_top1': 'baseline/pixels_knn_top1'}


def text(encoder: Encoder, name: str, library: str) -> str:
    """The content of `README.md`: YAML that the Hugging Face Hub reads, and Markdown.

    Args:
      encoder: the encoder. Of a run, its workdir tells about the training and what was measured.
      name: of the model.
      library: 'timm' or 'transformers', which loads it.
    """
    method = _method(encoder.run_config) if encoder.run_config is not None else ''
    tags = ['self-supervised-learning', 'contrastive_jax', *([method.lower()] if method else [])]
    what = f'trained without labels by {method}' if method else 'with given weights'
    parts = [
        '---',
        f'library_name: {library}',
        'pipeline_tag: image-feature-extraction',
        'tags:',
        *(f'- {json.dumps(tag)}' for tag in tags),
        '# license: not chosen; write one here, such as apache-2.0, before you publish this folder',
        '---',
        '',
        f'# {name}',
        '',
        f'An image encoder, {what}: {encoder.num_features:,} features of an image. It has '
        f'{encoder.num_parameters:,} parameters and no classifier. Written by contrastive_jax '
        f'{contrastive_jax.__version__}.',
        '',
        *_use(encoder, name, library),
        *_input(encoder),
        *_training(encoder),
        *_measured(encoder),
    ]
    return '\n'.join(parts)


def load_line(folder: str, library: str) -> str:
    """The expression that loads the model."""
    if library == 'timm':
        return f'timm.create_model({f"local-dir:{folder}"!r}, pretrained=True)'
    return f'transformers.AutoModel.from_pretrained({folder!r})'


def _use(encoder: Encoder, name: str, library: str) -> list[str]:
    if library == 'timm':
        lines = [
            'import timm',
            '',
            f'model = {load_line(name, library)}.eval()',
            'transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))',
            'h = model(transform(image)[None])  # of a Pillow image',
        ]
    else:
        vit = isinstance(encoder.module, VisionTransformer)
        lines = [
            'from transformers import AutoImageProcessor, AutoModel',
            '',
            f'model = AutoModel.from_pretrained({name!r}).eval()',
            f'processor = AutoImageProcessor.from_pretrained({name!r})',
            "output = model(**processor(image, return_tensors='pt'))  # of a Pillow image",
            'h = output.last_hidden_state[:, 0]' if vit else 'h = output.pooler_output.flatten(1)',
        ]
    return [
        '## Use',
        '',
        '```python',
        *lines,
        '```',
        '',
        f'`contrastive_jax.load_encoder({name!r})` reads this folder, too.',
        '',
    ]


def _input(encoder: Encoder) -> list[str]:
    size, policy = encoder.image_size, encoder.policy
    short = pixels.short_side(size)
    crop = f'short side resized to {short}, center crop of {size}' if short > size else f'{size} x {size}'
    return [
        '## Input',
        '',
        f'Images of {encoder.channels} channels{" (RGB)" if encoder.channels == 3 else ""}: {crop} pixels, '
        f'{policy.interpolation}; values in [0, 1], minus {list(policy.mean)}, divided by {list(policy.std)}.',
        '',
    ]


def _training(encoder: Encoder) -> list[str]:
    c = encoder.run_config
    if c is None or encoder.workdir is None:
        return ['## Training', '', 'Not recorded: the encoder is from a file of weights.', '']
    run = about.run(about.read(encoder.workdir))
    data = str(run.get('data') or c.data.name or c.data.source)
    images = f', {run["train_images"]:,} images' if isinstance(run.get('train_images'), int) else ''
    total = run.get('total_steps')
    steps = f'{encoder.step:,}' + (f' of {total:,}' if isinstance(total, int) else '')
    rows = [
        ('method', _method(c) + (', moving average of the weights' if encoder.weights == 'target' else '')),
        ('encoder', _section(c.encoder)),
        ('data', f'{data}{images}, {c.data.image_size} x {c.data.image_size} pixels'),
        ('steps', f'{steps}, batch size {c.batch_size:,}'),
        ('optimizer', f'{c.optimizer.name}, learning rate {c.optimizer.learning_rate:g}, '
                      f'weight decay {c.optimizer.weight_decay:g}, schedule {c.schedule.name}'),
        ('precision', str(c.dtype)),
        ('seed', str(c.seed)),
    ]  # fmt: skip
    if c.get('init'):
        rows.append(('started from', 'given weights'))
    return ['## Training', '', '| | |', '|---|---|', *(f'| {key} | {value} |' for key, value in rows), '']


def _measured(encoder: Encoder) -> list[str]:
    """What the evaluators of the run measured at the step of the encoder, or at the last step before it."""
    title, nothing = ['## Measured', ''], 'Nothing was recorded.'
    if encoder.workdir is None or encoder.run_config is None or encoder.step is None:
        return [*title, nothing, '']
    history = [line for line in metrics.read(encoder.workdir) if line['step'] <= encoder.step]
    measured = [line for line in history if any(metric in line for metric in MEASURED)]
    if not measured:
        return [*title, nothing, '']
    at, baselines = measured[-1], _last(history)
    rows = []
    for metric, name in MEASURED.items():
        if metric in at:
            before, raw = baselines.get(metric.replace('eval/', 'baseline/')), baselines.get(PIXELS.get(metric, ''))
            rows.append(f'| {name} | {_percent(comparable(at, metric))} | {_percent(before)} | {_percent(raw)} |')
    network = ' of the trained network, not of its moving average' if encoder.weights == 'target' else ''
    lines = [
        *title,
        f'At step {int(at["step"]):,}{network}, on held-out images of the data above; the features are frozen.',
        '',
        f'| | this encoder | {first_weights(encoder.run_config.get("init", ""))} | raw pixels |',
        '|---|---|---|---|',
        *rows,
        '',
    ]
    if full := [
        f'{name} {_percent(at[metric])}' for metric, name in MEASURED.items() if metric in at and few(metric) in at
    ]:
        lines += [f'The table is of the images on which the baselines were measured. On all: {", ".join(full)}.', '']
    return lines


def _last(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The last value of each metric."""
    return {metric: value for line in history for metric, value in line.items()}


def _percent(value: float | None) -> str:
    return 'not measured' if value is None or value != value else f'{value:.1%}'


def _method(config: ConfigDict) -> str:
    """The name of the class of the method, which is the name that the paper uses."""
    return find_method(config.method.name).__name__


def _section(section: Mapping[str, Any]) -> str:
    """A section of a config on one line."""
    fields = {name: x for name, x in section.items() if name != 'name' and x is not None and x is not False}
    return ', '.join([str(section['name']), *(f'{name} {x}' for name, x in fields.items())])
