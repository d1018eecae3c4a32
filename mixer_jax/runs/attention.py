"""Attention of a checkpoint over images: how far each head looks, and what the class token sees."""

import dataclasses
import logging
import math
import os
from typing import Any

import numpy as np

from mixer_jax import models
from mixer_jax.analysis import attention
from mixer_jax.data.subset import subset
from mixer_jax.errors import UserError
from mixer_jax.pictures import attention_pictures
from mixer_jax.pictures.text_tables import aligned
from mixer_jax.runlog.progress import reading
from mixer_jax.runs.loaded_model import LoadedModel, loaded_model
from mixer_jax.runs.npz import npz_bytes

log = logging.getLogger(__name__)

IMAGES = 128
"""Number of images that the ViT paper takes."""


@dataclasses.dataclass(frozen=True)
class AttentionReport:
  """Mean attention distance of each head, and what it was measured on.

  Attributes:
    checkpoint: path or published name.
    variant: name of the model, such as 'ViT-B/16'.
    data: data set and split.
    images: number of images that decoded.
    image_size: side of an image, pixels.
    distance: mean over images, pixels, (blocks, heads) float64.
    standard_error: of it, over images; NaN of a single image.
    uniform_distance: attention distance of a head with the same weight everywhere, pixels.
    class_token_share: mean weight that patches give to the class token, (blocks, heads) in [0, 1];
      None without a class token.
    class_token_map: mean weight that the class token gives to each patch, (blocks, heads, G, G) for
      G patches per side; None likewise.
  """

  checkpoint: str
  variant: str
  data: str
  images: int
  image_size: int
  distance: np.ndarray
  standard_error: np.ndarray
  uniform_distance: float
  class_token_share: np.ndarray | None
  class_token_map: np.ndarray | None

  def title(self) -> str:
    """Return the model and the images in words."""
    return f'{self.checkpoint} ({self.variant}), {self.images:,} images of {self.data}'

  def summary(self) -> str:
    """Return a line per block: mean, least and most of its heads."""
    header = ['block', 'mean, px', 'least', 'head', 'most', 'head']
    rows = []
    for block, heads in enumerate(self.distance):
      near, far = int(heads.argmin()), int(heads.argmax())
      row = [str(block), f'{heads.mean():.2f}']
      row += [f'{heads[near]:.2f}', str(near), f'{heads[far]:.2f}', str(far)]
      if self.class_token_share is not None:
        row.append(f'{100 * self.class_token_share[block].mean():.1f}')
      rows.append(row)
    if self.class_token_share is not None:
      header.append('to the class token, %')
    return (
      f'mean attention distance: {self.title()}\n{aligned(header, rows)}'
      f'images of {self.image_size} px; uniform attention: {self.uniform_distance:.2f} px'
    )

  def to_json(self) -> dict[str, Any]:
    """Return the figures for a JSON file; None where one is not known."""
    names = ('checkpoint', 'variant', 'data', 'images', 'image_size', 'uniform_distance')
    figures = {name: getattr(self, name) for name in names}
    for name in ('distance', 'standard_error', 'class_token_share'):
      rows = getattr(self, name)
      figures[name] = rows if rows is None else [list(map(_known, row)) for row in rows.tolist()]
    return figures

  def npz(self) -> bytes:
    """Return the fields that are known by their names, as the bytes of an .npz file."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    return npz_bytes(**{name: value for name, value in fields.items() if value is not None})

  def pictures(self) -> dict[str, bytes]:
    """Return PNG files: 'distance', and 'class_token' where there is one."""
    drawn = {
      'distance': attention_pictures.distances(
        self.distance, self.title(), self.image_size, self.uniform_distance
      )
    }
    if self.class_token_map is not None:
      title = f'{self.title()}\nweights that the class token gives to the patches, mean over images'
      drawn['class_token'] = attention_pictures.class_token(self.class_token_map, title)
    return drawn


def _known(value: float) -> float | None:
  return value if math.isfinite(value) else None


def measure_attention(
  model: LoadedModel | str | os.PathLike, *, images: int = IMAGES
) -> AttentionReport:
  """Measure the attention distance of each head over images of the evaluation split.

  All processes call it alike. Batches are streamed; the weights of their attention do not leave the
  devices.

  Args:
    model: a loaded model, or a checkpoint that `load_for_evaluation` reads.
    images: number of images, spread evenly over the split; all, if it has fewer.

  Raises:
    UserError: the model has no attention, weights of it that are not finite, `images` below 1, or
      no image decodes.
  """
  if isinstance(images, bool) or not isinstance(images, int) or images < 1:
    raise UserError(f'images={images!r}: a number of images, at least 1')
  model = loaded_model(model)
  setup, config, size = model.setup, model.model, len(model.setup.source)
  step = attention.make_attention_step(config, setup.mesh)
  if images < size:
    chosen = subset(setup.source, np.arange(images) * size // images)
    setup = dataclasses.replace(setup, source=chosen)
  log.info('%s on %s', models.variant_of(config), setup.source.name)
  batches = reading(setup.batches(config.image_size), setup.images_per_batch, len(setup.source))
  found = attention.measure(step, model.place_params(), batches, setup.mesh)
  count = len(found.distance)
  if not count:
    raise UserError(f'attention: none of the images of {setup.source.name} decodes')
  unknown = ~np.isfinite(found.distance).all((0, 2))
  if unknown.any():
    raise UserError(
      f'the attention of block {unknown.argmax()} of {model.path} is not finite: check its weights'
    )
  deviation = (
    found.distance.std(0, ddof=1) if count > 1 else np.full_like(found.distance[0], np.nan)
  )
  share = found.class_token_share
  return AttentionReport(
    checkpoint=model.path,
    variant=models.variant_of(config),
    data=model.setup.source.name,
    images=count,
    image_size=config.image_size,
    distance=found.distance.mean(0),
    standard_error=deviation / math.sqrt(count),
    uniform_distance=attention.uniform_distance(config),
    class_token_share=None if share is None else share.mean(0),
    class_token_map=found.class_token_map,
  )
