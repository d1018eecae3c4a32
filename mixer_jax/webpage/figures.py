"""Tables and charts of the figures in a study's JSON file.

They depend only on the shape of the data:

* a list of mappings, or a mapping of mappings, is a table;
* a mapping of steps to numbers is a curve; lists and mappings of curves are a chart;
* other numbers and texts are listed with their names.

Values inside the rows of a table that fit no cell come below it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mixer_jax.webpage.charts import Series, legend, line_chart, number
from mixer_jax.webpage.html import Html, table, tag
from mixer_jax.webpage.runs import is_number

_MAX_DEPTH = 8  # levels; deeper ones are left out
_MAX_ROWS = 400  # per table
_MAX_IN_CELL = 8  # numbers
_MAX_LINES = 64  # per chart

_NAMES = {
  'top1': 'top-1, %',
  'top5': 'top-5, %',
  'real': 'ReaL, %',
  'gflop': 'GFLOP',
  'lr': 'learning rate',
  'rate': 'learning rate',
  'image_size': 'image size, px',
  'relative_loss': 'share that is lost',
  'avg5': 'Avg 5',
  'vtab': 'VTAB-1k',
  'cka': 'CKA',
}
_SPREADS = {'mean': 'deviation', 'lost': 'noise'}
"""Name of a number -> name of the ± that belongs to it."""


def elements(value: Any, name: str = '') -> list[Html]:
  """Return elements that show all of `value`, as `json.loads` returned it, under `name`."""
  return list(_elements(value, name, 0))


def _elements(value: Any, name: str, depth: int) -> Iterator[Html]:
  if depth > _MAX_DEPTH:
    yield tag('p', f'{name}: deeper levels are left out', class_='soft')
  elif lines := _lines(value):
    yield _chart(name, lines)
  elif rows := _rows(value):
    yield from _title(name, depth)
    yield from _table(name, rows, depth)
  elif isinstance(value, Mapping):
    yield from _title(name, depth)
    flat = {key: item for key, item in value.items() if _fits(item)}
    if flat:
      pairs = [[_name(key), _cell(item)] for key, item in _with_spreads(flat).items()]
      yield table(['', 'value'], pairs, label=name or 'figures', words=[1])
    for key, item in value.items():
      if key not in flat:
        yield from _elements(item, f'{name} · {_name(key)}' if name else _name(key), depth + 1)
  elif _fits(value):
    yield tag('p', tag('b', f'{name} ') if name else None, _cell(value))
  elif isinstance(value, list):
    yield from _title(name, depth)
    for place, item in enumerate(value[:_MAX_ROWS]):
      yield from _elements(item, f'{name} {place}'.strip(), depth + 1)


def _title(name: str, depth: int) -> Iterator[Html]:
  if name:
    yield tag('h3' if depth < 2 else 'h4', name)


def _table(name: str, rows: Mapping[str, Mapping[str, Any]], depth: int) -> Iterator[Html]:
  """Yield a row for each name and a column for each number; then what fits no cell."""
  shown = dict(list(rows.items())[:_MAX_ROWS])
  flat = {key: _with_spreads(_flattened(row)) for key, row in shown.items()}
  columns = list(dict.fromkeys(column for row in flat.values() for column in row))
  if columns:
    body = [
      [key, *(_cell(row[column]) if column in row else '' for column in columns)]
      for key, row in flat.items()
    ]
    words = [
      place + 1
      for place, column in enumerate(columns)
      if any(isinstance(row.get(column), str) for row in shown.values())
    ]
    yield table(['', *map(_name, columns)], body, label=name or 'figures', words=words)
  if len(shown) < len(rows):
    yield tag('p', f'{len(rows) - len(shown)} more rows are in the file', class_='soft')
  # Curves of all rows go into one chart; other nested values are collapsed.
  inside = {key: _inside(row) for key, row in shown.items()}
  for part in dict.fromkeys(part for row in inside.values() for part in row):
    own = {key: row[part] for key, row in inside.items() if part in row}
    title = f'{name} · {_name(part)}' if name else _name(part)
    if lines := _lines(own):
      yield _chart(title, lines)
      continue
    below = [
      e for key, item in own.items() for e in _elements(item, f'{key} · {_name(part)}', depth + 1)
    ]
    yield from below if depth == 0 else [tag('details', tag('summary', title), below)]


def _chart(name: str, lines: Mapping[str, Sequence[Mapping[str, float]]]) -> Html:
  series = [
    Series(label, sorted((int(x), y) for x, y in curve.items()), place, dots=len(curves) == 1,
           faint=len(curves) > 1)
    for place, (label, curves) in enumerate(lines.items())
    for curve in curves
  ]  # fmt: skip
  means = [
    Series(label, _mean(curves), place, dots=True)
    for place, (label, curves) in enumerate(lines.items())
    if len(curves) > 1
  ]
  note = 'thin: single runs; thick: their mean' if means else ''
  chart = line_chart(name or 'curve', [*series, *means][:_MAX_LINES], note=note)
  return Html(legend(list(lines)) + tag('div', chart, class_='charts'))


def _mean(curves: Sequence[Mapping[str, float]]) -> list[tuple[float, float]]:
  """Return the mean at the steps that all curves have."""
  common = set.intersection(*(set(curve) for curve in curves))
  return sorted((int(x), sum(curve[x] for curve in curves) / len(curves)) for x in common)


def _lines(value: Any) -> dict[str, list[Mapping[str, float]]]:
  """Return label -> curves if `value` is a curve, a list of them, or a mapping of these."""
  if _is_curve(value):
    return {'': [value]}
  if isinstance(value, list) and value and all(map(_is_curve, value)):
    return {'': value}
  if isinstance(value, Mapping) and value:
    parts = {str(key): _lines(item) if not _is_plain(item) else {} for key, item in value.items()}
    if all(list(part) == [''] for part in parts.values()):
      return {key: part[''] for key, part in parts.items()}
  return {}


def _is_curve(value: Any) -> bool:
  return (
    isinstance(value, Mapping)
    and len(value) > 1
    and all(key.isdecimal() and len(key) < 12 for key in value)
    and all(map(is_number, value.values()))
  )


def _rows(value: Any) -> dict[str, Mapping[str, Any]]:
  """Return name -> row if `value` is a table: mappings with a key in common, and some cells."""
  if isinstance(value, list):
    found = {str(place + 1): item for place, item in enumerate(value)}
  elif isinstance(value, Mapping):
    found = {str(key): item for key, item in value.items()}
  else:
    return {}
  rows = list(found.values())
  if len(rows) < 2 or not all(isinstance(row, Mapping) and row for row in rows):
    return {}
  is_table = set.intersection(*(set(row) for row in rows)) and any(map(_flattened, rows))
  return found if is_table else {}


def _flattened(row: Mapping[str, Any]) -> dict[str, Any]:
  """Return the values that fit cells; a small mapping of plain values becomes columns."""
  flat = {}
  for key, item in row.items():
    if _fits(item):
      flat[key] = item
    elif _becomes_columns(item):
      flat |= {f'{key} {name}': inner for name, inner in item.items()}
  return flat


def _inside(row: Mapping[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in row.items() if not _fits(v) and not _becomes_columns(v)}


def _becomes_columns(item: Any) -> bool:
  return isinstance(item, Mapping) and 0 < len(item) <= 4 and all(map(_is_plain, item.values()))


def _with_spreads(row: Mapping[str, Any]) -> dict[str, Any]:
  """Return the row with each number and its ± joined: 'mean ± deviation'."""
  paired = {
    name: spread
    for name, spread in _SPREADS.items()
    if is_number(row.get(name))
    and spread in row
    and (row[spread] is None or is_number(row[spread]))
  }
  merged = {}
  for name, item in row.items():
    if name in paired:
      spread = row[paired[name]]
      merged[f'{name} ± {paired[name]}'] = item if spread is None else _spread(item, spread)
    elif name not in paired.values():
      merged[name] = item
  return merged


def _spread(value: float, spread: float) -> str:
  plain = 0.05 <= max(abs(value), abs(spread)) < 1000
  return f'{value:.2f} ± {spread:.2f}' if plain else f'{_cell(value)} ± {_cell(spread)}'


def _is_plain(value: Any) -> bool:
  return value is None or isinstance(value, str | int | float)


def _fits(value: Any) -> bool:
  """Return True for what fits a cell: a plain value, or a list of them."""
  return _is_plain(value) or (isinstance(value, list) and all(map(_is_plain, value)))


def _cell(value: Any) -> str:
  if isinstance(value, list):
    text = ', '.join(map(_cell, value[:_MAX_IN_CELL]))
    more = f', … ({len(value)} in total)' if len(value) > _MAX_IN_CELL else ''
    return text + more
  if value is None:
    return '–'
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, float):
    return f'{value:.2f}' if 1 <= abs(value) < 1000 else number(value)
  return f'{value:,}' if isinstance(value, int) else value


def _name(key: str) -> str:
  return _NAMES.get(key, str(key).replace('_', ' '))
