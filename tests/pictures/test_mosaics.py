"""Mosaics pixel by pixel."""

import io

import numpy as np
from PIL import Image

from mixer_jax.pictures import mosaics


def drawn(panels, **kwargs) -> np.ndarray:
  with Image.open(io.BytesIO(mosaics.mosaics(panels, 'a title\nof two lines', **kwargs))) as image:
    return np.asarray(image.convert('RGB')).astype(int)


def test_each_pixel_of_a_picture_is_a_square_of_its_level():
  picture = np.array([[0.0, 2.0], [-2.0, 1.0]])
  shown = drawn({'one': picture[None]}, paired=False)
  block = shown[-20 - 44 : -20, 20 : 20 + 44]  # the margin is 20; 2×2 at 22 times their size
  levels = block.reshape(2, 22, 2, 22, 3)
  assert (np.ptp(levels, axis=(1, 3)) == 0).all()
  np.testing.assert_array_equal(levels[:, 0, :, 0, 1], [[127, 255], [0, 191]])


def test_colours_are_kept_and_an_empty_picture_is_grey():
  red = np.zeros((2, 2, 2, 3))
  red[0, :, :, 0] = 1
  shown = drawn({'two': red}, paired=True)
  first, second = shown[-30, 30], shown[-30, 20 + 44 + 2 + 10]
  assert first.tolist() == [255, 127, 127]
  assert second.tolist() == [127, 127, 127]


def test_panels_are_side_by_side_and_within_the_picture():
  noise = np.random.default_rng(0).normal(size=(384, 14, 14))
  shown = drawn({'many': noise, 'few': noise[:3]}, paired=True)
  inked = np.min(shown, axis=-1) < 250
  assert inked[-25].any()
  assert not inked[-15:].any()  # the margin below
  assert not inked[:, :18].any()
  rows, columns = shown.shape[:2]
  assert 700 < rows < 1100
  assert 700 < columns < 1000


def test_what_is_not_finite_is_red_and_does_not_change_the_scale():
  shown = drawn({'one': np.array([[[np.nan, 2.0], [-1.0, np.inf]]])}, paired=False)
  levels = shown[-20 - 44 : -20, 20 : 20 + 44].reshape(2, 22, 2, 22, 3)[:, 0, :, 0]
  np.testing.assert_array_equal(levels[0, 0], levels[1, 1])
  assert levels[0, 0, 0] > 200
  assert levels[0, 0, 1] < 30
  np.testing.assert_array_equal(levels[[0, 1], [1, 0], 1], [255, 63])
