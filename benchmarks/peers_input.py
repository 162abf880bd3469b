"""Rows of `benchmarks.peers`: from a JPEG file to crops, and two augmented views of images in memory."""

import itertools
import random
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageFilter

from benchmarks.sides import Makers, Setting, Side
from contrastive_jax.augment.policy import Policy
from contrastive_jax.data.images import crop_box
from contrastive_jax.data.loader import train_batches
from contrastive_jax.data.open import open_source
from contrastive_jax.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, SCALE = 224, (0.2, 1.0)
VIEWED, FEW = 64, 16  # images of a call of ours, and of a peer that takes them one by one


def jpeg(setting: Setting) -> Makers:
    """What the host does for a step of MoCo v2: ours decodes and cuts two crops, torchvision makes both views."""
    if setting.photos is None:
        raise UserError('no photos are given -> --photos=FOLDER')
    source = open_source('folder', path=str(setting.photos), split='all')
    files = [setting.photos / source.file_name(i) for i in range(len(source))]
    epochs = itertools.count()

    def ours() -> Side:
        def call() -> None:
            at = next(epochs)
            batches = train_batches(
                source, seed=0, batch_size=len(source), image_size=SIZE, num_views=2, crop_scale=SCALE,
                start_step=at, stop_step=at + 1,
            )  # fmt: skip
            assert len(list(batches)) == 1

        return Side(call, len(source))

    def torchvision(whole: bool) -> Side:
        view = transform(SIZE, blur=True) if whole else crop_only()

        def call() -> None:
            for file in files:
                with Image.open(file) as image:
                    rgb = image.convert('RGB')
                for _ in range(2):
                    view(rgb)

        return Side(call, len(files))

    return {
        'ours': ours,
        'torchvision': lambda: torchvision(True),
        'torchvision, crops alone': lambda: torchvision(False),
        'OpenCV, decoding and crops': lambda: opencv(files),
    }


def views_of_photos(setting: Setting) -> Makers:
    """Two views of MoCo v2 of 224 pixels, of images of 256."""
    return _views(224, 256, blur=True)


def views_of_small_images(setting: Setting) -> Makers:
    """Two views of MoCo v2's CIFAR-10 recipe."""
    return _views(32, 32, blur=False)


def _views(size: int, side: int, blur: bool) -> Makers:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (VIEWED, 8, 8, 3), np.uint8)  # smooth, as photos are
    images = np.stack([np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC)) for x in small])

    def ours() -> Side:
        policy = Policy(blur=(0.5, 0.5) if blur else (0.0, 0.0))
        placed, draws = jax.device_put(images), itertools.count()
        both = jax.jit(lambda keys, images: [policy(keys, images, view, size) for view in range(2)])
        keys_of = jax.jit(lambda n: jax.random.split(jax.random.key(n), VIEWED))

        def call() -> None:
            jax.block_until_ready(both(keys_of(next(draws)), placed))

        return Side(call, VIEWED)

    def torchvision() -> Side:
        view, pictures = transform(size, blur), [Image.fromarray(x) for x in images[:FEW]]

        def call() -> None:
            for picture in pictures:
                for _ in range(2):
                    view(picture)

        return Side(call, FEW)

    return {'ours': ours, 'torchvision': torchvision}


def transform(size: int, blur: bool) -> Any:
    """MoCo v2's view in torchvision, as the official code has it, on Pillow images."""
    import torch
    from torchvision.transforms import v2

    torch.set_num_threads(1)

    class Blur:
        def __call__(self, image: Image.Image) -> Image.Image:
            if random.random() >= 0.5:
                return image
            return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))

    return v2.Compose([
        v2.RandomResizedCrop(size, SCALE),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
        v2.RandomGrayscale(0.2),
        *([Blur()] if blur else []),
        v2.RandomHorizontalFlip(),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ])  # fmt: skip


def crop_only() -> Any:
    """torchvision's crop and flip, as uint8: the part of a view that ours does on the host."""
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomResizedCrop(SIZE, SCALE), v2.RandomHorizontalFlip(), v2.PILToTensor()])


def opencv(files: list[Path]) -> Side:
    """OpenCV: decoding, then two crops, not antialiased where they are enlarged, by areas where they are reduced."""
    import cv2

    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)

    def call() -> None:
        for file in files:
            image = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
            for _ in range(2):
                left, top, right, bottom = crop_box(rng, image.shape[0], image.shape[1], SCALE, (3 / 4, 4 / 3))
                how = cv2.INTER_AREA if min(right - left, bottom - top) > SIZE else cv2.INTER_LINEAR
                cv2.resize(image[top:bottom, left:right], (SIZE, SIZE), interpolation=how)

    return Side(call, len(files))
