"""Texts, ticks and legends that stay inside their figure, and off its data."""

import math
import textwrap
import unicodedata
from collections.abc import Sequence

from mixer_jax.pictures.drawing import plain

FEW_POINTS = 30
"""Curves of at most so many points have a marker at each: one point alone has no line."""

_DECADES_OF_125 = 3  # a logarithmic axis that spans more has a tick per power of ten
_LEAST_RANGE = 4  # of a logarithmic axis, a factor: so it has a tick at 1, 2 or 5
_LEAST_SHARE = 0.001
_TICKS_ROOM = 36  # points below the axes: tick labels of one line, and the axis label


def fitted(text: str, letters: int, lines: int = 1) -> str:
  """Return a text on at most `lines` lines of `letters` characters; '…' replaces its middle.

  Both ends stay: the start of a caption and the last folder of a path say most.
  """
  text = plain(text)
  if any(unicodedata.east_asian_width(character) in 'WF' for character in text):
    letters //= 2  # these are twice as wide
  shown, room = text, letters * lines
  while len(wrapped := textwrap.wrap(shown, letters)) > lines:
    start = (room - 1) // 3
    shown = f'{text[:start]}…{text[len(text) - (room - 1 - start) :]}'
    room -= 1
  return '\n'.join(wrapped)


def fitted_lines(text: str, letters: int, lines: int = 2) -> str:
  """Return a text with each of its lines `fitted`."""
  return '\n'.join(fitted(line, letters, lines) for line in text.split('\n'))


def markers(points: int) -> dict[str, object]:
  """Return the style of a curve: with markers if it has few points."""
  return {'marker': 'o', 'markersize': 3} if points <= FEW_POINTS else {}


def step_axis(axis) -> None:
  """Label the horizontal axis by whole steps, as in 1,000,000."""
  from matplotlib.ticker import MaxNLocator

  axis.set_xlabel('step')
  axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
  axis.xaxis.set_major_formatter(lambda step, _: f'{step:,.0f}')


def log_axis(axis, values: Sequence[float]) -> None:
  """Make the vertical axis logarithmic, with plain numbers at 1, 2 and 5, or powers of ten.

  Args:
    values: all that is drawn, positive.
  """
  from matplotlib.ticker import LogLocator, NullLocator

  low, high = min(values), max(values)
  margin = max((high / low) ** 0.1, math.sqrt(_LEAST_RANGE * low / high), 1.0)
  low, high = low / margin, high * margin
  subs = (1, 2, 5) if math.log10(high / low) <= _DECADES_OF_125 else (1,)
  axis.set_yscale('log')
  axis.set_ylim(low, high)
  axis.yaxis.set_major_locator(LogLocator(subs=subs, numticks=10))
  axis.yaxis.set_minor_locator(NullLocator())
  axis.yaxis.set_major_formatter(lambda value, _: f'{value:,.0f}' if value >= 1 else f'{value:g}')


def widen(axis) -> None:
  """Make the vertical axis span at least a thousandth of its values, so its ticks stay short."""
  low, high = axis.get_ylim()
  middle, half = (low + high) / 2, abs(low + high) / 2 * _LEAST_SHARE
  if high - low < 2 * half:
    axis.set_ylim(middle - half, middle + half)


def legend_below(axis, room: float = _TICKS_ROOM, **style) -> None:
  """Put a legend below the axes, where no data are.

  Args:
    room: points that tick labels and the label of the axis take.
    style: arguments of matplotlib's `legend`.
  """
  from matplotlib.transforms import ScaledTranslation

  below = axis.transAxes + ScaledTranslation(0, -room / 72, axis.figure.dpi_scale_trans)
  if axis.get_legend_handles_labels()[0]:
    axis.legend(
      loc='upper center', bbox_to_anchor=(0.5, 0), bbox_transform=below, fontsize=8, **style
    )
