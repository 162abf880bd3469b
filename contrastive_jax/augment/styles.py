"""The differences between the libraries of the papers, which crop, jitter and blur differently under the same names."""

import dataclasses

from contrastive_jax.augment import crops

# Luma weights of PIL's conversion to 'L': ITU-R 601-2 (.299, .587, .114) in 16 bits. They sum to exactly 1, so gray
# pixels do not change. TensorFlow, and torchvision on float tensors, use .2989 for red, which darkens white.
PIL_LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)
TENSORFLOW_LUMA = (0.2989, 0.587, 0.114)


@dataclasses.dataclass(frozen=True)
class Style:
    """The definition of the operations in one library or repository.

    Attributes:
      box: the distribution of the boxes of random crops.
      attempts: the number of boxes that are tried.
      pillow_crops: whether crops are antialiased and rounded to integer levels. Otherwise neither: at every scale a
        pixel depends on the 4x4 pixels around its center, and bicubic overshoot is clipped to [0, 255].
      luma: the weights of red, green and blue in gray.
      adds_brightness: whether brightness adds a shift uniform in [-s, s]. Otherwise it multiplies by 1 + this number.
      by_channel: whether contrast uses the mean of each channel and saturation multiplies S in HSV. Otherwise contrast
        blends with the mean gray of the image, and saturation with the gray of each pixel.
      zero_padded_blur: whether the kernel of the Gaussian blur is a tenth of the image wide, with black outside the
        image. Otherwise the kernel covers four sigma, and the border pixels are repeated.
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
        """The settings of brightness, contrast, saturation and hue that leave an image unchanged."""
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

# 'pil': PIL and torchvision, as in the repositories of MoCo, SwAV, SimSiam, DINO, ...; 'simclr' and 'simclrv1': the
# second and the first version of SimCLR; 'byol': BYOL.
STYLES = {
    'pil': PIL,
    'simclr': SIMCLR,
    'simclrv1': dataclasses.replace(SIMCLR, adds_brightness=True),
    'byol': dataclasses.replace(SIMCLR, adds_brightness=True, box=crops.byol_box, attempts=1),
}
