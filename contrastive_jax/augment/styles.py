"""Whose image operations: the libraries behind the papers crop, jitter and blur differently under the same names."""

import dataclasses

from contrastive_jax.augment import crops

# Luma as PIL's conversion to 'L' computes it: ITU-R 601-2 (.299, .587, .114) in 16 bits. They sum to exactly 1, so grey
# stays grey. TensorFlow, and torchvision on float tensors, take .2989 for red, which darkens white.
PIL_LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)
TENSORFLOW_LUMA = (0.2989, 0.587, 0.114)


@dataclasses.dataclass(frozen=True)
class Style:
    """How the operations are meant.

    Attributes:
      box: where random crops lie.
      attempts: how many boxes are tried.
      pillow_crops: crops are antialiased, and rounded to whole grey levels. Otherwise neither: however much a crop is
        reduced, a pixel is made of the four by four around its centre, and bicubic overshoot is clipped to [0, 255].
      luma: weights of red, green and blue in grey.
      adds_brightness: a shift uniform in [-s, s] is added. Otherwise the image is multiplied by 1 + such a number.
      by_channel: contrast is about the mean of each channel, and saturation a factor of S in HSV. Otherwise both blend
        with grey: with its mean, and pixel by pixel.
      zero_padded_blur: the Gaussian blur is a tenth of the image wide, and beyond the border there is black. Otherwise
        it reaches to four sigma, and the border goes on for ever.
    """

    box: crops.Box
    attempts: int
    pillow_crops: bool
    luma: tuple[float, float, float]
    adds_brightness: bool
    by_channel: bool
    zero_padded_blur: bool

    @property
    def neutral(self) -> tuple[float, float, float, float]:
        """The settings of a jitter that changes nothing: brightness, contrast, saturation, hue."""
        return (0.0 if self.adds_brightness else 1.0, 1.0, 1.0, 0.0)


PIL = Style(
    box=crops.torchvision_box,
    attempts=10,
    pillow_crops=True,
    luma=PIL_LUMA,
    adds_brightness=False,
    by_channel=False,
    zero_padded_blur=False,
)
SIMCLR = Style(
    box=crops.tensorflow_box,
    attempts=100,
    pillow_crops=False,
    luma=TENSORFLOW_LUMA,
    adds_brightness=False,
    by_channel=True,
    zero_padded_blur=True,
)

# PIL and torchvision (the repositories of MoCo, SwAV, SimSiam, DINO, ...), SimCLR in its second and its first version,
# and BYOL.
STYLES = {
    'pil': PIL,
    'simclr': SIMCLR,
    'simclrv1': dataclasses.replace(SIMCLR, adds_brightness=True),
    'byol': dataclasses.replace(SIMCLR, adds_brightness=True, box=crops.byol_box, attempts=1),
}
