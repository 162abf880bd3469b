"""What the tests of recipes share: fields of a config beside the values of a paper."""

from typing import Any

from ml_collections import ConfigDict

IMAGENET = {
    'data.source': 'tfds',
    'data.name': 'imagenet2012',
    'data.image_size': 224,
    'augment.style': 'pil',
    'augment.interpolation': 'bilinear',
    'augment.crop_ratio': (3 / 4, 4 / 3),
    'augment.flip': 0.5,
    'augment.grayscale': 0.2,
    'augment.blur_sigma': (0.1, 2.0),
    'augment.mean': (0.485, 0.456, 0.406),
    'augment.std': (0.229, 0.224, 0.225),
}


def values(config: ConfigDict, *sections: str) -> dict[str, Any]:
    """The fields of sections as 'section.field'."""
    return {f'{section}.{name}': value for section in sections for name, value in config[section].items()}


def check_values(config: ConfigDict, expected: dict[str, Any]) -> None:
    flat = {**dict(config.items()), **values(config, *(k for k, v in config.items() if isinstance(v, ConfigDict)))}
    assert {name: flat[name] for name in expected} == expected
