"""Text in pictures is drawn as text, and a picture that fails does not fail what it shows."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from mixer_jax.errors import StorageError
from mixer_jax.pictures import comparisons, drawing, heatmaps, mosaics, run_pictures
from mixer_jax.pictures.drawing import png_of, pyplot, tolerated

NAMES = [
  r'$\frac{', '$x^$', r'\$5 and $6', '%d {x}', '花', 'كلب', os.fsdecode(b'caf\xe9'),
  'a\x1b[31mred\x00', 'two\nlines', '😀', '\u202eright', '',
]  # fmt: skip


def drawn_text(text: str) -> str:
  figure = pyplot().figure()
  shown = figure.text(0, 0, text)
  png_of(figure)
  return shown.get_text()


@pytest.mark.parametrize('name', NAMES)
def test_any_name_can_be_drawn_in_every_picture(name):
  image = np.zeros((4, 4, 3), np.uint8)
  one, no = np.array([0]), np.array([1])
  pngs = [
    run_pictures.predictions([image], one, no, np.array([0.5]), [name, name]),
    comparisons.comparison({name: {name or 'x': [{1: 2.0, 2: 3.0}]}}, name),
    heatmaps.heatmap(np.eye(2), ['a', 'b'], ['a', 'b'], name, (name, name)),
    mosaics.mosaics({name: np.ones((2, 4, 4))}, name, paired=False),
  ]
  for png in pngs:
    assert Image.open(io.BytesIO(png)).format == 'PNG'


def test_a_formula_is_drawn_as_its_characters():
  def pixels(text):
    figure = pyplot().figure(figsize=(2, 1))
    figure.text(0.1, 0.5, text)
    return np.asarray(Image.open(io.BytesIO(png_of(figure))))

  # A formula would be drawn without its signs, and so narrower.
  ends = [np.flatnonzero((pixels(text) < 128).any(axis=(0, 2)))[-1] for text in ('$x_1$', 'x')]
  assert ends[0] > ends[1] + 20


def test_what_no_font_has_is_escaped(monkeypatch):
  monkeypatch.setattr(drawing, '_more_fonts', lambda: ([], frozenset()))
  assert drawn_text('花 é') == r'\u82b1 é'
  assert drawn_text(os.fsdecode(b'caf\xe9')) == r'caf\xe9'


def test_what_another_font_has_is_drawn_with_it(monkeypatch):
  monkeypatch.setattr(drawing, '_MORE_FONTS', ('STIXGeneral',))  # comes with matplotlib
  drawing._more_fonts.cache_clear()
  names, glyphs = drawing._more_fonts()
  drawing._more_fonts.cache_clear()
  assert names == ['STIXGeneral']
  (more, *_) = sorted(glyphs - set(map(chr, drawing._own_glyphs())))
  monkeypatch.setattr(drawing, '_more_fonts', lambda: (names, glyphs))
  assert drawn_text(f'a{more}') == f'a{more}'  # a missing glyph would be a warning


def test_axes_keep_their_own_formulas():
  figure, axis = pyplot().subplots()
  axis.plot([1, 2], [1e-3, 1e3])
  axis.set_yscale('log')
  png_of(figure)
  assert any('mathdefault' in label.get_text() for label in axis.get_yticklabels())


def test_a_picture_that_fails_is_logged_in_one_line(caplog):
  with tolerated('curves.png'):
    raise RuntimeError('no\nfont')
  assert caplog.messages == ['curves.png was not drawn: RuntimeError: no font']
  with pytest.raises(StorageError), tolerated('curves.png'):
    raise StorageError('disk full')
