#!/usr/bin/env bash
# Pillow, converting 16-bit grayscale to 8 bits: Image.convert('L') or convert('RGB') of a mode 'I;16' image clips instead of
# scaling. Everything above 255 becomes white: mid-gray 32768 is 255, not 128. X-rays and microscope images turn white,
# without an error. For mode F (float TIFF in [0, 1]) the same call truncates to 0 or 1, so the image turns black.
# Guess: convert maps the range of the source to the range of the target, as other libraries' img_as_ubyte do.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 numpy==2.4.6 scikit-image==0.26.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import PIL
from PIL import Image
from skimage.util import img_as_ubyte

x = np.array([[0, 200, 256, 4095, 32768, 65535]], np.uint16)
Image.fromarray(x).save('x.png')
opened = Image.open('x.png')
pillow = np.asarray(opened.convert('RGB'))[0, :, 0].tolist()
scaled = img_as_ubyte(x)[0].tolist()
floats = np.asarray(Image.fromarray(np.array([[0.0, 0.4, 0.6, 1.0]], np.float32)).convert('L'))[0].tolist()
print('Pillow', PIL.__version__, 'mode', opened.mode, 'convert', pillow, 'img_as_ubyte', scaled, 'float', floats)
assert opened.mode == 'I;16' and pillow == [0, 200, 255, 255, 255, 255], pillow
assert scaled[4] in (127, 128) and scaled[3] < 17, scaled
assert max(floats) <= 1, floats
print('as described')
PY
