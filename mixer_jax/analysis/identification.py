"""Layer identification: is a layer's most similar layer in another model the one at its place?

The sanity check of Kornblith et al. 2019 (section 6.1) for a measure of similarity: between two
models that differ in their seed only, it should be.
"""

import dataclasses

import numpy as np

from mixer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Identification:
  """Attributes:
  nearest: for each layer of x, by depth, the number of the most similar layer of y; -1 where none
    is a number.
  accuracy: percent of the layers of x whose nearest is the one at their place; None if the models
    differ in their number of layers.
  chance: percent that a guess gets.
  depth_error: mean distance between a layer and its nearest, as a share of the depth: 0 for the
    same places, about 1/3 for guesses. Layers that have no nearest are left out.
  """

  nearest: tuple[int, ...]
  accuracy: float | None
  chance: float
  depth_error: float


def identify(similarity: np.ndarray) -> Identification:
  """Sums up a (n_x, n_y) matrix of similarities of layers, both in order of depth.

  Its transpose asks the other way round, and may be answered otherwise.

  Raises:
    UserError: no matrix, or one without layers.
  """
  if similarity.ndim != 2 or not similarity.size:
    raise UserError(f'similarities of shape {similarity.shape}: give (n_x, n_y) layers')
  n_x, n_y = similarity.shape
  known = np.isfinite(similarity).any(axis=1)
  largest = np.argmax(np.where(np.isfinite(similarity), similarity, -np.inf), axis=1)
  nearest = np.where(known, largest, -1)
  places = np.arange(n_x)
  apart = np.abs(places / max(n_x - 1, 1) - nearest / max(n_y - 1, 1))[known]
  return Identification(
    nearest=tuple(map(int, nearest)),
    accuracy=float(100 * np.mean(nearest == places)) if n_x == n_y else None,
    chance=100 / n_y,
    depth_error=float(np.mean(apart)) if known.any() else float('nan'),
  )
