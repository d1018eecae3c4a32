"""Results and costs of the models in Tables 2 and 3 of arXiv 2105.01601: Mixer, ViT and BiT."""

from typing import NamedTuple

from mixer_jax import models


class Published(NamedTuple):
  """A row of the paper: a model pre-trained on `data`; accuracies after fine-tuning, percent."""

  variant: str
  data: str
  """'imagenet2012', 'imagenet21k' or 'jft300m'."""
  epochs: int
  size: int
  """Image size of fine-tuning, pixels; all were pre-trained at 224."""
  table: int
  imagenet: float
  """Top-1 on the validation split."""
  real: float | None
  avg5: float | None
  vtab: float | None
  images_per_second: int
  """Inference, per TPU-v3 core."""
  core_days: int
  """Pre-training on TPU v3; the paper gives thousands to two decimals."""


PUBLISHED = (
  Published('B/16', 'imagenet2012', 300, 224, 3, 76.44, 82.36, 88.33, None, 1384, 10),
  Published('L/16', 'imagenet2012', 300, 224, 3, 71.76, 77.08, 87.25, None, 419, 40),
  Published('B/16', 'imagenet21k', 300, 224, 3, 80.64, 85.80, 92.50, None, 1384, 150),
  Published('L/16', 'imagenet21k', 300, 224, 3, 82.89, 87.54, 93.63, None, 419, 410),
  Published('L/16', 'imagenet21k', 300, 448, 3, 83.91, 87.75, 93.86, None, 105, 410),
  Published('L/16', 'imagenet21k', 300, 448, 2, 84.15, 87.86, 93.91, 74.95, 105, 410),
  Published('S/32', 'jft300m', 5, 224, 3, 68.70, 75.83, 87.13, None, 11489, 10),
  Published('B/32', 'jft300m', 7, 224, 3, 75.53, 81.94, 90.99, None, 4208, 50),
  Published('S/16', 'jft300m', 5, 224, 3, 73.83, 80.60, 89.50, None, 3994, 30),
  Published('B/16', 'jft300m', 7, 224, 3, 80.00, 85.56, 92.60, None, 1384, 80),
  Published('L/32', 'jft300m', 7, 224, 3, 80.67, 85.62, 93.24, None, 1314, 120),
  Published('L/16', 'jft300m', 7, 224, 3, 84.05, 88.14, 94.51, None, 419, 230),
  Published('L/16', 'jft300m', 14, 224, 3, 84.82, 88.48, 94.77, None, 419, 450),
  Published('H/14', 'jft300m', 14, 224, 3, 86.32, 89.14, 95.49, None, 194, 1010),
  Published('L/16', 'jft300m', 14, 448, 3, 86.78, 89.72, 95.13, None, 105, 450),
  Published('H/14', 'jft300m', 14, 448, 2, 87.94, 90.18, 95.71, 75.33, 40, 1010),
  Published('ViT-B/16', 'imagenet2012', 300, 224, 3, 79.67, 84.97, 90.79, None, 861, 20),
  Published('ViT-L/16', 'imagenet2012', 300, 224, 3, 76.11, 80.93, 89.66, None, 280, 50),
  Published('ViT-B/16', 'imagenet21k', 300, 224, 3, 84.59, 88.93, 94.16, None, 861, 180),
  Published('ViT-L/16', 'imagenet21k', 300, 224, 3, 84.46, 88.35, 94.49, None, 280, 550),
  Published('ViT-L/16', 'imagenet21k', 90, 512, 2, 85.30, 88.62, 94.39, 72.72, 32, 180),
  Published('ViT-L/16', 'jft300m', 14, 224, 3, 85.63, 89.16, 95.21, None, 280, 650),
  Published('ViT-H/14', 'jft300m', 14, 224, 3, 86.65, 89.56, 95.57, None, 87, 2300),
  Published('ViT-L/16', 'jft300m', 14, 512, 3, 87.76, 90.54, 95.63, None, 32, 650),
  Published('ViT-H/14', 'jft300m', 14, 518, 2, 88.55, 90.72, 95.97, 77.63, 15, 2300),
  Published('BiT-R152x4', 'imagenet21k', 90, 480, 2, 85.39, None, 94.04, 70.64, 26, 940),
  Published('BiT-R50x1', 'jft300m', 7, 224, 3, 73.69, 81.92, None, None, 2159, 80),
  Published('BiT-R152x1', 'jft300m', 7, 224, 3, 79.12, 86.12, None, None, 932, 140),
  Published('BiT-R50x2', 'jft300m', 7, 224, 3, 78.92, 86.06, None, None, 890, 140),
  Published('BiT-R152x2', 'jft300m', 14, 224, 3, 83.34, 88.90, None, None, 356, 580),
  Published('BiT-R200x3', 'jft300m', 14, 224, 3, 84.73, 89.58, None, None, 141, 1780),
  Published('BiT-R152x4', 'jft300m', 40, 480, 2, 87.54, 90.54, 95.33, 76.29, 26, 9900),
)
"""Table 3 uses the recipe `resmall-crop`, Table 2 `resize-crop`.

Sizes and epochs in Table 2 of ViT and BiT are those of their papers, as far as these say: the 90
epochs of ViT-L/16 on ImageNet-21k are taken from its core-days, and 480 px of R152x4 from BiT's own
rule. The accuracies of the first four ViTs, whose weights are others than the ViT paper's, reached
the authors by personal communication.
"""

IMAGES = {'imagenet2012': 1_281_167, 'imagenet21k': 14_197_087, 'jft300m': 300_000_000}
"""Size of the training split (imagenet21k: fall-2011 release; JFT-300M: as its name says)."""


def published(variant: str, data: str | None) -> list[Published]:
  """Return the rows of a variant, such as 'B/16', pre-trained on this data; None: on any."""
  return [row for row in PUBLISHED if row.variant == variant and data in (None, row.data)]


def run_of(model, data: str, images: int) -> Published | None:
  """Return the first row whose run saw as many images of this data, at 224 px; None: none did."""
  for row in published(models.variant_of(model), data):
    if model.image_size == 224 and abs(images / (row.epochs * IMAGES[data]) - 1) < 0.02:
      return row
  return None


def core_days(model, data: str, images: int) -> float | None:
  """Return the paper's core-days of `run_of`."""
  row = run_of(model, data, images)
  return row and row.core_days
