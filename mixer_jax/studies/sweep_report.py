"""Table, conclusion and picture of `mixer-jax sweep`, from what `sweep.json` holds."""

from collections.abc import Mapping
from typing import Any

from mixer_jax.pictures import comparisons, text_tables
from mixer_jax.pictures.text_tables import metric_title, with_deviation


def text(values: Mapping[str, Any]) -> str:
  """A line for each value, and the best one."""
  return table(values) + verdict(values)


def files(values: Mapping[str, Any]) -> dict[str, bytes]:
  """File name -> picture."""
  return {'sweep.png': picture(values)}


def table(values: Mapping[str, Any]) -> str:
  """A line for each value, or pair of values."""
  title = metric_title(values['metric'])
  header = [*values['fields'], f'{title} of {values["chosen_on"]}']
  header += [f'of {values["tested_on"]}'] if values['tested_on'] else []
  rows = []
  for row in values['rows']:
    figures = [_figure(row, ''), _figure(row, 'test_')] if values['tested_on'] else [_figure(row)]
    rows.append([*map(str, row['values'].values()), *figures])
  return text_tables.aligned(header, rows, left=len(values['fields']))


def verdict(values: Mapping[str, Any]) -> str:
  """The value that was chosen, and its figure on images that had no part in the choice."""
  if values['best'] is None:
    return 'no value is chosen: runs with each one diverged\n'
  (row,) = (row for row in values['rows'] if row['values'] == values['best'])
  best = ', '.join(f'{name}={value}' for name, value in values['best'].items())
  title = metric_title(values['metric'])
  line = f'best on {values["chosen_on"]}: {best} ({title}: {_figure(row)}'
  if values['tested_on']:
    return f'{line}; on {values["tested_on"]}: {_figure(row, "test_")})\n'
  return f'{line})\nconfig.data.test_split would give a figure of images without a part in this\n'


def picture(values: Mapping[str, Any]) -> bytes:
  """The metric against the first field's values, with a line for each value of the second."""
  name, *second = values['fields']
  places = {str(value): place for place, value in enumerate(values['fields'][name])}
  lines: dict[str, dict[int, list[float]]] = {}
  for row in values['rows']:
    others = ', '.join(f'{other}={row["values"][other]}' for other in second)
    splits = {'evaluation': values['chosen_on'], 'test': values['tested_on']}
    for key, images in splits.items() if not second else [('evaluation', others)]:
      if row[key]:
        lines.setdefault(str(images), {})[places[str(row['values'][name])]] = row[key]
  best = values['best'] and places[str(values['best'][name])]
  title = metric_title(values['metric'])
  metric = f'{title} of {values["chosen_on"]}' if second else title
  return comparisons.by_value(lines, list(places), name, metric, best)


def _figure(row: Mapping[str, Any], prefix: str = '') -> str:
  """Mean and deviation, and the number of runs that diverged."""
  lost = f'{len(row["diverged"])} diverged' if row['diverged'] else ''
  if f'{prefix}mean' not in row:
    return lost
  figure = with_deviation(row[f'{prefix}mean'], row[f'{prefix}deviation'])
  return f'{figure} ({lost})' if lost else figure
