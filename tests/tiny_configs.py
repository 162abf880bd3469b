"""A config file like those in configs/: their `tiny` variants, smaller still, for tests that run a whole command often.

python -m contrastive_jax.main --config=tests/tiny_configs.py:mocov2 --workdir=...
"""

import importlib

from ml_collections import ConfigDict


def get_config(name: str = 'mocov2') -> ConfigDict:
    """The variant `tiny` of a config, with one stage of one block and without color.

    The programs of these tests are not optimized (see conftest.py), and color would take most of the time of a step.

    Args:
      name: the name of a file in configs/, or 'file,variant'. 'dictionary' keeps the color: some test should have it.
    """
    file, _, variant = name.partition(',')
    c = importlib.import_module(f'contrastive_jax.configs.{file}').get_config(f'{variant},tiny' if variant else 'tiny')
    with c.unlocked():
        c.eval.update(knn_k=4, max_train=16, max_test=2, batch_size=16)  # pictures of few images
        if c.encoder.name.startswith('resnet'):
            c.encoder.stage_sizes = (1,)
        if file != 'dictionary':
            c.augment.update(
                jitter=(0.0, 0.0, 0.0, 0.0), jitter_probability=0.0, grayscale=0.0, blur=(0.0, 0.0), solarize=(0.0, 0.0)
            )
    return c
