"""Labels of the tasks of VTAB-1k, computed from records, and visible images.

Records are those of TFDS, in which a sequence is a dict of lists. `tasks` names the sources of the
rules.
"""

import bisect
import dataclasses
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from mixer_jax.data.decode import UndecodableError, decode


@dataclasses.dataclass(frozen=True)
class Stored:
  """The label is a feature, unchanged."""

  feature: str = 'label'

  def __call__(self, record: Mapping[str, Any]) -> int:
    return int(record[self.feature])


@dataclasses.dataclass(frozen=True)
class Binned:
  """The label is a feature of `values` values, grouped into `bins` bins of equal width.

  40 orientations do not divide evenly into 16 bins, which hold 3 and 2 in turn.
  """

  feature: str
  values: int
  bins: int

  def __call__(self, record: Mapping[str, Any]) -> int:
    return int(record[self.feature]) * self.bins // self.values


FEWEST, MOST = 3, 10
"""Number of objects in an image of Clevr."""
CLEVR_DEPTHS = (8.0, 8.5, 9.0, 9.5, 10.0)
_KITTI_DEPTHS = (8.0, 20.0, 999.0)
_VEHICLES = (0, 1, 2)
"""KITTI's types Car, Van and Truck."""


def clevr_count(record: Mapping[str, Any]) -> int:
  """Return the number of objects: 3 to 10 are labels 0 to 7."""
  return len(record['objects']['size']) - FEWEST


def clevr_distance(record: Mapping[str, Any]) -> int:
  """Return the class of the closest object's depth, by five thresholds in Clevr's units.

  A depth equal to a threshold belongs to the nearer class.
  """
  depths = _depths(record['objects']['pixel_coords'])
  return bisect.bisect_left(CLEVR_DEPTHS, min(depths)) if depths else -1


def kitti_distance(record: Mapping[str, Any]) -> int:
  """Return the class of the closest vehicle's distance: to 8 m, to 20 m, more; 3 if none.

  Cars, vans and trucks count.
  A distance of exactly 8 or 20 m belongs to the nearer class.
  """
  objects = record['objects']
  depths = _depths(objects['location'])
  vehicles = [
    depth for depth, kind in zip(depths, objects['type'], strict=True) if kind in _VEHICLES
  ]
  return bisect.bisect_left(_KITTI_DEPTHS, min(vehicles, default=1000.0))


def _depths(places: Any) -> list[float]:
  """Return the third coordinates of (n, 3) float32, a list or an array; n may be 0."""
  return np.asarray(places, np.float32).reshape(-1, 3)[:, 2].tolist()


def brighten(data: bytes) -> bytes:
  """Convert an encoded grey image of levels 0 and 1 (TFDS's dSprites) to a PNG of 0 and 255.

  Data that cannot be decoded is returned unchanged, for the decoder to report.
  """
  try:
    levels = decode(data)[..., 0]
  except UndecodableError:
    return data
  # Least compression, since the 64 × 64 pixels are decoded again immediately.
  png = [cv2.IMWRITE_PNG_COMPRESSION, 1]
  return cv2.imencode('.png', np.where(levels, 255, 0).astype(np.uint8), png)[1].tobytes()
