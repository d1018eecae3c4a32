"""Layer identification: test whether a layer's most similar layer in another model has its depth.

The sanity check of Kornblith et al. 2019 (section 6.1) for a measure of similarity: between two
models that differ only in their seed, it should.
"""

import dataclasses

import numpy as np

from mixer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Identification:
  """Result of `identify`.

  Attributes:
    nearest: for each layer of x, by depth, the index of the most similar layer of y; -1 if no
      similarity is finite.
    accuracy: percent of the layers of x whose nearest has the same index; None if the models
      differ in their number of layers.
    chance: percent expected of a random guess.
    depth_error: mean distance between a layer and its nearest, as a share of the depth: 0 for
      equal depths, about 1/3 for guesses. Layers without a nearest are ignored.
  """

  nearest: tuple[int, ...]
  accuracy: float | None
  chance: float
  depth_error: float


def identify(similarity: np.ndarray) -> Identification:
  """Identify layers from their (n_x, n_y) similarities, both in order of depth.

  The transposed matrix identifies the layers of y, and may give another accuracy.

  Raises:
    UserError: not a matrix, or one without layers.
  """
  if similarity.ndim != 2 or not similarity.size:
    raise UserError(f'similarities of shape {similarity.shape}: give (n_x, n_y) layers')
  n_x, n_y = similarity.shape
  known = np.isfinite(similarity).any(axis=1)
  largest = np.argmax(np.where(np.isfinite(similarity), similarity, -np.inf), axis=1)
  nearest = np.where(known, largest, -1)
  own = np.arange(n_x)
  distance = np.abs(own / max(n_x - 1, 1) - nearest / max(n_y - 1, 1))[known]
  return Identification(
    nearest=tuple(map(int, nearest)),
    accuracy=float(100 * np.mean(nearest == own)) if n_x == n_y else None,
    chance=100 / n_y,
    depth_error=float(np.mean(distance)) if known.any() else float('nan'),
  )
