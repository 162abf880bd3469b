"""A file of jax.export gives our features for any number of images, on its own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jax import export

from contrastive_jax import pretrained
from contrastive_jax.augment.policy import Policy
from contrastive_jax.errors import UserError
from contrastive_jax.pretrained import jax_export, pixels
from tests.pretrained.encoders import STAGES, VIT, assert_near, random_encoder, random_images

ENCODERS: dict[str, tuple[dict[str, Any], str]] = {
    'byol': ({'name': 'resnet50', **STAGES, 'padding': 'same'}, 'imagenet'),
    'dino': ({'name': 'dino_small', **VIT}, 'half'),
}


@pytest.mark.parametrize('name', ENCODERS)
def test_features(tmp_path: Path, name: str) -> None:
    architecture, normalization = ENCODERS[name]
    made, said = random_encoder(architecture, Policy(**pixels.NORMALIZATIONS[normalization])), list[str]()
    pretrained.write(tmp_path / 'x.jaxexport', made, say=said.append)
    read = export.deserialize(bytearray((tmp_path / 'x.jaxexport').read_bytes()))
    assert read.platforms == ('cpu', 'cuda', 'tpu')
    assert [str(aval) for aval in (*read.in_avals, *read.out_avals)] == [
        'uint8[b,32,32,3]',
        f'float32[b,{made.num_features}]',
    ]
    for count in (1, 3, 7) if name == 'byol' else (3,):
        images = random_images(count, 32)
        assert_near(read.call(images), made(images), 1e-6) if count > 1 else np.testing.assert_allclose(
            read.call(images), made(images), rtol=1e-5, atol=1e-6
        )
    assert any('images: uint8 [b, 32, 32, 3], any b, no other size' in line for line in said)


def test_it_needs_jax_alone(tmp_path: Path) -> None:
    made = random_encoder({'name': 'cpc_tiny', 'patch_size': 16, 'patch_stride': 8})
    images = random_images(2, 32)
    pretrained.write(tmp_path / 'x.jaxexport', made)
    np.save(tmp_path / 'images.npy', images)
    code = (
        'import sys, numpy as np\nfrom jax import export\n'
        'h = export.deserialize(bytearray(open("x.jaxexport", "rb").read())).call(np.load("images.npy"))\n'
        'np.save("h.npy", h); print([name for name in ("contrastive_jax", "flax") if name in sys.modules])'
    )
    run = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout == '[]\n'
    assert_near(np.load(tmp_path / 'h.npy'), made(images), 1e-6)


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax_export, 'MAX_BYTES', 1000)
    with pytest.raises(UserError, match=r'more than the 2 GiB that a file of jax.export can hold'):
        pretrained.write(tmp_path / 'x.jaxexport', random_encoder({'name': 'resnet_tiny', 'width': 8}))
    assert not list(tmp_path.iterdir())
