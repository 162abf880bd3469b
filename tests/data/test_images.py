"""Decoding of every kind of image file against known pixels; host crops against torchvision's statistics and PIL's."""

import contextlib
import dataclasses
import functools
import io
import math
import resource
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from contrastive_jax.augment import geometry
from contrastive_jax.augment.styles import PIL, STYLES, Style
from contrastive_jax.data import images
from tests import goldens


def encode(image: Image.Image, format: str = 'PNG', **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def constant(mode: str, color: Any) -> Image.Image:
    return Image.new(mode, (16, 16), color)


PALETTE = constant('P', 1)
PALETTE.putpalette([0, 0, 0, 200, 100, 50])
DEEP = Image.fromarray(np.full((16, 16), 40000, np.uint16))


@pytest.mark.parametrize(
    ('data', 'rgb'),
    [
        (encode(constant('RGB', (10, 20, 30))), (10, 20, 30)),
        (encode(constant('RGB', (10, 20, 30)), 'WEBP', lossless=True), (10, 20, 30)),
        (encode(constant('RGB', (10, 20, 30)), 'BMP'), (10, 20, 30)),
        (encode(constant('L', 77)), (77, 77, 77)),
        (encode(constant('L', 77), 'JPEG'), (77, 77, 77)),
        (encode(constant('1', 1)), (255, 255, 255)),
        (encode(constant('LA', (77, 9))), (77, 77, 77)),
        (encode(constant('RGBA', (10, 20, 30, 128))), (10, 20, 30)),
        (encode(PALETTE), (200, 100, 50)),
        (encode(PALETTE, transparency=1), (200, 100, 50)),
        (encode(PALETTE, transparency=b'\xff\x40'), (200, 100, 50)),
        (encode(PALETTE, 'GIF'), (200, 100, 50)),
        (encode(DEEP), (156, 156, 156)),
        (encode(DEEP, 'TIFF'), (156, 156, 156)),
        (encode(Image.fromarray(np.full((4, 4), 40000, np.int32)), 'TIFF'), (156, 156, 156)),
        (encode(Image.fromarray(np.full((4, 4), 0.5, np.float32)), 'TIFF'), (128, 128, 128)),
        (encode(Image.fromarray(np.full((4, 4), 9e9, np.float32)), 'TIFF'), (255, 255, 255)),
        (b'P5 2 2 65535\n' + struct.pack('>4H', *[40000] * 4), (156, 156, 156)),
    ],
)
def test_known_pixels(data: bytes, rgb: tuple[int, int, int]) -> None:
    image = images.decode(data)
    assert image.dtype == np.uint8 and image.shape[2] == 3
    assert (image == rgb).all(), image[0, 0]


def test_16_bit_png_keeps_its_whole_range() -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None]
    np.testing.assert_array_equal(images.decode(encode(Image.fromarray(ramp)))[0, :, 1], np.arange(256))


def test_cmyk_both_as_written_and_inverted_by_adobe() -> None:
    """(cyan 0, magenta 255, yellow 0, black 0) is magenta. Pillow writes the Adobe marker and inverts."""
    data = encode(constant('CMYK', (0, 255, 0, 0)), 'JPEG', quality=100)
    assert b'Adobe' in data
    np.testing.assert_allclose(images.decode(data)[0, 0].astype(int), (255, 0, 255), atol=3)
    np.testing.assert_allclose(images.decode(encode(constant('CMYK', (0, 255, 0, 0)), 'TIFF'))[0, 0], (255, 0, 255))


def test_the_first_frame_of_an_animation() -> None:
    frames = [constant('RGB', color) for color in ((255, 0, 0), (0, 255, 0))]
    for format in ('GIF', 'PNG', 'WEBP'):
        image = images.decode(encode(frames[0], format, save_all=True, append_images=frames[1:], lossless=True))
        assert image.shape == (16, 16, 3)
        assert (image == (255, 0, 0)).all(), format


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('format', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_exif_orientation(orientation: int, format: str) -> None:
    corner = np.zeros((32, 48, 3), np.uint8)
    corner[:8, :16] = 255
    picture = Image.fromarray(corner)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture, format, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB')).astype(int)
    assert expected.shape[:2] == ((32, 48) if orientation < 5 else (48, 32))
    image = images.decode(data)
    assert image.shape == expected.shape and np.abs(image - expected).max() <= 2


def test_damaged_exif_does_not_lose_the_picture() -> None:
    data = encode(constant('RGB', (10, 20, 30)), 'JPEG', exif=b'Exif\0\0MM\0*\xff\xff\xff\xff broken')
    assert images.decode(data).shape == (16, 16, 3)


def test_files_are_recognised_by_content(tmp_path: Path) -> None:
    (tmp_path / 'png.jpg').write_bytes(encode(constant('RGB', (1, 2, 3))))
    (tmp_path / 'jpeg.png').write_bytes(encode(constant('RGB', (9, 9, 9)), 'JPEG'))
    assert (images.decode(tmp_path / 'png.jpg') == (1, 2, 3)).all()
    assert (images.decode(str(tmp_path / 'jpeg.png')) == 9).all()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'hello, I am a jpg',
        encode(NOISE, 'JPEG')[:1500],
        encode(NOISE)[:3000],
        encode(NOISE).replace(b'IDAT', b'XDAT'),
        b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n',  # would start Ghostscript
        encode(Image.fromarray(np.full((4, 4), np.nan, np.float32)), 'TIFF'),
    ],
)
def test_damaged_files(data: bytes) -> None:
    with pytest.raises(images.ImageError) as raised:
        images.decode(data)
    assert str(raised.value) and '\n' not in str(raised.value)


def test_unreadable_paths(tmp_path: Path) -> None:
    for path in (tmp_path / 'gone.jpg', tmp_path):
        with pytest.raises(images.ImageError):
            images.decode(path)


def test_any_damage_is_an_image_error_or_an_image() -> None:
    rng = np.random.default_rng(1)
    for format in ('JPEG', 'PNG', 'WEBP', 'GIF', 'TIFF'):
        good = bytearray(encode(NOISE.resize((24, 24)), format))
        for _ in range(60):
            data = good.copy()
            for position in rng.integers(0, len(data), 3):
                data[position] ^= 1 << int(rng.integers(8))
            with contextlib.suppress(images.ImageError):
                assert images.decode(bytes(data)).dtype == np.uint8


@pytest.mark.parametrize('side', [12000, 20000])
def test_a_decompression_bomb_is_refused_before_decoding(side: int) -> None:
    """A PNG of zeros, written by hand: side x side pixels in a few hundred kilobytes."""
    packer = zlib.compressobj(1)
    rows = b''.join(packer.compress(bytes(side + 1)) for _ in range(64)) + packer.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 0, 0, 0, 0))
    bomb = b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', rows) + chunk(b'IEND', b'')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(images.ImageError, match='pixels'):
        images.decode(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


@pytest.mark.parametrize('case', goldens.cases('crop_statistics', 'random_resized_crop'))
def test_crop_boxes_have_the_statistics_of_torchvision(case: goldens.Case) -> None:
    fields, levels = case.fields, case.key(case.fields['quantile_levels'])
    height, width = fields['height'], fields['width']
    rng, draws = np.random.default_rng(0), 40_000
    settings = (height, width, fields['scale'], fields['ratio'], dataclasses.replace(PIL, attempts=fields['attempts']))
    boxes = np.array([images.crop_box(rng, *settings) for _ in range(draws)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= width and bottom.max() <= height
    w, h = right - left, bottom - top
    area = w * h / (height * width)
    tolerance = fields['tolerance']
    slack = goldens.or_chance(tolerance['area_quantile'], np.ptp(fields['scale']) / 2, fields['draws'], draws)
    assert np.abs(np.quantile(area, levels) - case['area_q']).max() <= slack
    # Ratios of small integers come in steps. Two runs of torchvision differ by a whole step where a level falls on an
    # edge, so the level may move by three standard errors of the smaller run: 0.01 of 40,000 draws.
    move = 0.01 * math.sqrt(draws / min(draws, fields['draws']))
    low, high = (np.quantile(np.log(w / h), np.clip(levels + d, 0, 1)) for d in (-move, move))
    slack = tolerance['log_ratio_quantile']
    assert ((low - slack <= case['logratio_q']) & (case['logratio_q'] <= high + slack)).all()
    fraction = top / np.maximum(height - h, 1)
    for values, expected in ((fraction, case['top_frac_mean_std']), (area, case['mean_area_std'])):
        slack = goldens.or_chance(tolerance['mean'], expected[1], fields['draws'], draws)
        np.testing.assert_allclose([values.mean(), values.std()], expected, atol=slack)


def squares(case: goldens.Case, *names: str) -> list[dict[str, Any]]:
    """The ops of these names whose result is a square, as all crops for networks are."""
    ops = [op for op in case.fields['ops'] if op['op'] in names and op['size'][0] == op['size'][1]]
    if not ops:
        pytest.skip(f'the case has no square result of {" or ".join(names)}')
    return ops


PIL_CASES = [c for c in goldens.cases('augmentation', 'image') if c.values[0].fields['library'] == 'pil']


@pytest.mark.parametrize('case', PIL_CASES)
def test_resized_crops_against_golden(case: goldens.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for op in squares(case, 'resized_crop'):
        box = op['left'], op['top'], op['left'] + op['width'], op['top'] + op['height']
        monkeypatch.setattr(images, 'crop_box', lambda *_, box=box: box)
        image = case.key(case.fields['input']).astype(np.uint8)
        crop = images.random_resized_crop(
            image, np.random.default_rng(0), op['size'][0], interpolation=op['interpolation']
        )
        assert np.abs(crop.astype(int) - case.key(op['key'])).max() <= op.get('tolerance', case.tolerances)['uint8'], op


TF_CASES = [c for c in goldens.cases('augmentation', 'image') if c.values[0].fields['library'] == 'tf']


@pytest.mark.parametrize('case', TF_CASES)
def test_interpolation_against_golden(case: goldens.Case) -> None:
    """TensorFlow's resize without antialias, also of its evaluation crop, as bytes."""
    ops = [op for op in squares(case, 'resized_crop', 'center_crop') if not op['antialias']]
    if not ops:
        pytest.skip('the case has no square result without antialias')
    for op in ops:
        image, size = case.key(case.fields['input']).astype(np.uint8), op['size'][0]
        if op['op'] == 'center_crop' and op['proportion'] == 224 / 256:
            actual = images.center_crop(image, size, op['interpolation'], STYLES['simclr'])
        else:
            crop = image[op['top'] :][: op['height'], op['left'] :][:, : op['width']]
            actual = images.interpolate(crop, size, op['interpolation'])
        expected = np.clip(case.key(op['key']), 0, 1) * case.fields['input_scale']
        # A byte, and what TensorFlow's table of weights rounds.
        slack = 0.5 + op.get('tolerance', case.tolerances)['float32'] * case.fields['input_scale']
        assert np.abs(actual - expected).max() <= slack, op


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('style', ['pil', 'simclr', 'byol'])
def test_host_and_device_cut_the_same_crops(style: str, interpolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one box, much reduced in one direction and enlarged in the other, up to a gray level."""
    kind = STYLES[style]
    top, left, h, w = 3, 2, 90, 7
    monkeypatch.setattr(images, 'crop_box', lambda *_: (left, top, left + w, top + h))
    picture = np.asarray(NOISE.resize((40, 100)))
    host = images.random_resized_crop(picture, np.random.default_rng(0), 16, (0, 0), (0, 0), interpolation, kind)
    resize = functools.partial(geometry.resized_crop, picture, np.array([top, left, h, w]), (16, 16), interpolation)
    device = resize(whole_levels=True) if kind.pillow_crops else resize(antialias=False, clamp=False)
    assert np.abs(host - np.clip(device, 0, 255)).max() <= (1 if kind.pillow_crops else 0.51)


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (3, 1000), (1000, 3), (1, 2), (2, 2)])
@pytest.mark.parametrize('style', STYLES.values(), ids=STYLES)
def test_crops_of_tiny_and_long_images(height: int, width: int, style: Style) -> None:
    image = np.full((height, width, 3), 9, np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(50):
        left, top, right, bottom = images.crop_box(rng, height, width, (0.08, 1), (3 / 4, 4 / 3), style)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert (images.random_resized_crop(image, rng, 8, style=style) == 9).all()
    assert images.center_crop(image, 8).shape == (8, 8, 3) and (images.center_crop(image, 8) == 9).all()


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize(('height', 'width'), [(60, 47), (31, 100), (40, 40)])
def test_center_crop_is_resize_then_crop(height: int, width: int, interpolation: str) -> None:
    """torchvision's Resize(256/224 size) and CenterCrop(size), spelt out with Pillow."""
    size, image = 28, Image.fromarray(np.asarray(NOISE.resize((width, height))))
    short = 32
    if width <= height:
        resized = image.resize((short, math.floor(short * height / width)), images.INTERPOLATIONS[interpolation])
    else:
        resized = image.resize((math.floor(short * width / height), short), images.INTERPOLATIONS[interpolation])
    left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
    expected = np.asarray(resized.crop((left, top, left + size, top + size))).astype(int)
    assert np.abs(images.center_crop(np.asarray(image), size, interpolation) - expected).max() <= 1
