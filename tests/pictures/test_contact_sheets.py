"""Contact sheets: position and size of each image."""

import io

import numpy as np
from PIL import Image

from mixer_jax.pictures import contact_sheets
from mixer_jax.pictures.contact_sheets import Band, contact_sheet


def sheet(*bands: Band) -> np.ndarray:
  return np.asarray(Image.open(io.BytesIO(contact_sheet(bands))).convert('RGB')).astype(int)


def filled(color, height=40, width=40) -> np.ndarray:
  return np.full((height, width, 3), color, np.uint8)


def boxes(pixels: np.ndarray, color) -> tuple[int, int, int, int]:
  """Return (top, left, height, width) of the pixels of a colour."""
  rows, columns = (abs(pixels - color).max(-1) <= 3).nonzero()
  top, left = rows.min(), columns.min()
  return int(top), int(left), int(rows.max() - top + 1), int(columns.max() - left + 1)


def test_images_of_any_size_fill_their_cells_in_rows_and_blocks():
  red, green, blue, lilac = (255, 0, 0), (0, 128, 0), (0, 0, 255), (200, 100, 200)
  left = [('a', [('5', filled(red)), ('10', filled(green, 8, 4))])]
  right = [('b', [('', filled(blue, 600, 300))])]
  below = [('c', [('x', filled(lilac, 1, 1))])]
  pixels = sheet(Band('one', [left, right]), Band('two', [below]))
  cell = contact_sheets._CELL
  first, second, third, last = (boxes(pixels, color) for color in (red, green, blue, lilac))
  assert first[2:] == last[2:] == (cell, cell)
  assert second[2:] == third[2:] == (cell, cell // 2)
  assert first[0] == second[0] < last[0]
  assert first[1] == last[1] < second[1] < third[1]


def test_a_caption_is_not_repeated_in_the_row_below():
  row = lambda *captions: ('t', [(caption, filled((0, 0, 255))) for caption in captions])
  block = [row('5', '10'), row('5', '10', '-10'), row('5', '15')]
  assert contact_sheets._captions(block) == [['5', '10'], ['', '', '-10'], ['', '15']]
