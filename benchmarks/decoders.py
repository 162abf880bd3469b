"""The speed of JPEG decoders in one thread: Pillow, as the package uses it, beside OpenCV, simplejpeg and PyTurboJPEG.

    pip install opencv-python-headless simplejpeg PyTurboJPEG
    python -m benchmarks.decoders FOLDER [--min_side 0] [--windows 7]

Each window decodes all .jpg files of the folder, from memory, with each decoder in turn; times are CPU time. A decoder
is only of use if its pixels are those of Pillow: the largest difference is shown. --min_side=448 asks for a reduced
size whose sides keep so many pixels, as `images.decode` does for large photos.
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Decoder = Callable[[bytes], np.ndarray]


def reduction(width: int, height: int, min_side: int) -> int:
    """The largest of 1, 2, 4 and 8 that both sides can be divided by, so that they keep `min_side` pixels."""
    return max((k for k in (1, 2, 4, 8) if min(width, height) >= k * min_side), default=1) if min_side else 1


def pillow(min_side: int) -> Decoder:
    def decode(content: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(content), formats=('JPEG',))
        if min_side:
            image.draft(None, (min_side, min_side))
        return np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))  # to convert would copy

    return decode


def opencv(min_side: int) -> Decoder:
    import cv2

    cv2.setNumThreads(1)
    flags = {1: cv2.IMREAD_COLOR_RGB, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    flags[8] = cv2.IMREAD_REDUCED_COLOR_8

    def decode(content: bytes) -> np.ndarray:
        k = reduction(*Image.open(io.BytesIO(content)).size, min_side) if min_side else 1
        found = cv2.imdecode(np.frombuffer(content, np.uint8), flags[k] | cv2.IMREAD_IGNORE_ORIENTATION)
        return found if k == 1 else found[..., ::-1]  # only whole images come as RGB

    return decode


def simplejpeg(min_side: int) -> Decoder:
    import simplejpeg

    def decode(content: bytes) -> np.ndarray:
        # Its own choice of a reduction keeps at least these sides; with 0 it decodes the whole image.
        return simplejpeg.decode_jpeg(content, min_height=min_side, min_width=min_side, min_factor=1)

    return decode


def turbojpeg(min_side: int) -> Decoder:
    import turbojpeg

    decoder = turbojpeg.TurboJPEG()  # needs the library of the system

    def decode(content: bytes) -> np.ndarray:
        k = reduction(*Image.open(io.BytesIO(content)).size, min_side) if min_side else 1
        return decoder.decode(content, pixel_format=turbojpeg.TJPF_RGB, scaling_factor=(1, k) if k > 1 else None)

    return decode


DECODERS = {'Pillow': pillow, 'OpenCV': opencv, 'simplejpeg': simplejpeg, 'PyTurboJPEG': turbojpeg}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='a folder with JPEG files, also below it')
    parser.add_argument('--min_side', type=int, default=0, help='decode at a reduced size; default: 0, the whole image')
    parser.add_argument('--windows', type=int, default=7, help='interleaved measurements of each decoder')
    args = parser.parse_args(argv)
    files = sorted(file for file in args.folder.rglob('*') if file.suffix.lower() in ('.jpg', '.jpeg'))
    if not files:
        parser.error(f'no .jpg file in {args.folder} -> give a folder with photos')
    contents = [file.read_bytes() for file in files]
    decoders: dict[str, Decoder] = {}
    for name, make in DECODERS.items():
        try:
            decoders[name] = make(args.min_side)
            decoders[name](contents[0])
        except Exception as error:  # a missing package or library raises errors of many types
            decoders.pop(name, None)
            print(f'{name} is left out: {" ".join(str(error).split())[:100]}')
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(args.windows):
        for name, decode in decoders.items():
            began = time.thread_time()
            for content in contents:
                decode(content)
            seconds[name].append(time.thread_time() - began)
    pixels = sum(image.width * image.height for image in map(Image.open, files)) / len(files) / 1e6
    print(f'{len(files)} files of {pixels:.2f} megapixels, n = {args.windows} windows; median [minimum, maximum]')
    print('| decoder | CPU ms an image | Pillow / it | largest and mean difference from Pillow |\n|---|---|---|---|')
    for name, decode in decoders.items():
        ms, ratio = 1e3 * np.array(seconds[name]) / len(files), np.array(seconds['Pillow']) / seconds[name]
        text = [f'{np.median(x):.2f} [{x.min():.2f}, {x.max():.2f}]' for x in (ms, ratio)]
        print(f'| {name} | {text[0]} | {text[1]} | {difference(decode, decoders["Pillow"], contents)} |')


def difference(decode: Decoder, reference: Decoder, contents: Sequence[bytes]) -> str:
    """The largest and the mean difference of all pixels, in levels; 'other sizes' if the images have other sizes."""
    largest, means = 0, []
    for content in contents:
        a, b = decode(content).astype(int), reference(content).astype(int)
        if a.shape != b.shape:
            return f'another size: {list(a.shape[:2])} for {list(b.shape[:2])}'
        largest = max(largest, int(np.abs(a - b).max()))
        means.append(np.abs(a - b).mean())
    return f'{largest}, {np.mean(means):.2f}'


if __name__ == '__main__':
    main()
