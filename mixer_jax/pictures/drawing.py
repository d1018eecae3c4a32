"""Figures of matplotlib as PNG bytes. All text is drawn as text, whatever a file is called."""

import contextlib
import functools
import io
import logging
from collections.abc import Iterator

from mixer_jax.errors import UserError, one_line, printable_lines

log = logging.getLogger(__name__)

_MORE_FONTS = (
  *('CJK', 'Source Han', 'WenQuanYi', 'Droid Sans Fallback', 'PingFang', 'Hiragino', 'Heiti'),
  *('YaHei', 'SimHei', 'SimSun', 'Malgun', 'Meiryo', 'Yu Gothic', 'Arial Unicode', 'Unifont'),
)
"""Parts of the names of fonts with the characters that matplotlib's own font lacks."""


def pyplot():
  """Return matplotlib's pyplot, imported late and set to open no windows."""
  import matplotlib

  matplotlib.use('agg')
  import matplotlib.pyplot as plt

  return plt


def png_of(figure) -> bytes:
  """Return a figure as PNG bytes, and close it."""
  from matplotlib.text import Text

  try:
    for text in figure.findobj(Text):
      _make_plain(text)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=110)
  finally:
    pyplot().close(figure)
  return buffer.getvalue()


@contextlib.contextmanager
def tolerated(name: str) -> Iterator[None]:
  """Log in a line that a picture could not be drawn: what it shows was computed, and is kept.

  Raises:
    UserError, OSError: the picture cannot be written, or its images cannot be read.
  """
  try:
    yield
  except (UserError, OSError):
    raise
  except Exception as error:  # matplotlib raises many kinds
    log.warning('%s was not drawn: %s: %s', name, type(error).__name__, one_line(error))


def plain(text: str) -> str:
  """Return a text in which control characters, and those that no font has, are escaped."""
  shown = printable_lines(text)
  missing = _missing(shown)
  for character in missing - _more_fonts()[1] if missing else ():
    shown = shown.replace(character, character.encode('ascii', 'backslashreplace').decode())
  return shown


def _make_plain(text) -> None:
  """Make a matplotlib text show its characters: no formulas, no boxes for missing glyphs."""
  shown = plain(text.get_text())
  if _missing(shown):
    text.set_fontfamily([*text.get_fontfamily(), *_more_fonts()[0]])
  text.set_text(shown.replace('$', r'\$'))


def _missing(text: str) -> set[str]:
  """Return the characters that matplotlib's own font lacks."""
  return {c for c in text if ord(c) not in _own_glyphs()} - {'\n'}


@functools.cache
def _own_glyphs() -> frozenset[int]:
  from matplotlib import font_manager

  return frozenset(font_manager.get_font(font_manager.findfont('DejaVu Sans')).get_charmap())


@functools.cache
def _more_fonts() -> tuple[list[str], frozenset[str]]:
  """Return the names of further fonts on this machine, and the characters that they have."""
  from matplotlib import font_manager

  names, glyphs = [], set[str]()
  for font in font_manager.fontManager.ttflist:
    if font.name not in names and any(part in font.name for part in _MORE_FONTS):
      names.append(font.name)
      glyphs |= set(map(chr, font_manager.get_font(font.fname).get_charmap()))
  return names, frozenset(glyphs)
