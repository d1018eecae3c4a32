"""Tables of runs, and of the paper's results for the same models."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mixer_jax.webpage.charts import color, number
from mixer_jax.webpage.html import Child, Html, table, tag
from mixer_jax.webpage.runs import Run

Published = Mapping[str, Any]
"""A row of the paper's tables, with the fields of `models.paper.Published`; and `images`, the
number of images in its pre-training split."""


def label_of(run: Run, place: int) -> Html:
  """Return a run's name with its colour; `place`: its number."""
  return tag('span', run.name, class_=f'run {color(place)}')


def _percent(points: Sequence[tuple[int, float]], best: bool = False) -> str:
  if not points:
    return '–'
  step, value = max(points, key=lambda point: point[1]) if best else points[-1]
  return f'{value:.2f} at {step:,}' if best else f'{value:.2f}'


def run_table(compared: Sequence[Run], *, study: str = '') -> Html:
  """Make a table with one row per run; `study`: its name if the runs belong to one."""
  rows: list[dict[str, Child]] = []
  for place, run in enumerate(compared):
    few = {
      f'{metric}, %': _percent(run.event_curve('fewshot', metric))
      for metric in run.metrics('fewshot')
      if metric.endswith('-shot')
    }
    real, test = run.event_curve('eval', 'real'), run.event_curve('test', 'top1')
    losses = run.event_curve('eval', 'loss')
    # If the config counts epochs, the number of steps is not in it.
    total = None if run.config.get('total_epochs') else run.config.get('total_steps')
    out_of = f' of {total:,}' if type(total) is int and total != run.step else ''
    rows.append({
      'run': run.name if study else label_of(run, place),
      'variant': run.model.variant if run.model else '–',
      'parameters': f'{run.model.parameters:,}' if run.model else '–',
      'GFLOP': number(run.model.gflop) if run.model else '–',
      'data': run.data,
      'steps': f'{run.step:,}{out_of}',
      'top-1, %': _percent(run.event_curve('eval', 'top1')),
      'best, at step': _percent(run.event_curve('eval', 'top1'), best=True),
      **({'ReaL, %': _percent(real)} if real else {}),
      **({'test top-1, %': _percent(test)} if test else {}),
      **few,
      'loss': number(losses[-1][1]) if losses else '–',
      'images/s': '–' if run.images_per_second is None else f'{run.images_per_second:,.0f}',
      'device-hours': f'{run.device_hours:,.2f}',
      'core-days': number(round(run.device_hours / 24, 4)),
    })  # fmt: skip
  # Columns are in the order of the longest row, so that optional ones keep their place.
  columns = list(max(rows, key=len))
  columns += [name for row in rows for name in row if name not in columns]
  columns = list(dict.fromkeys(columns))
  body = [[row.get(column, '–') for column in columns] for row in rows]
  return table(
    columns,
    body,
    label=f'runs of {study}' if study else 'runs',
    words=[columns.index(c) for c in ('variant', 'data')],
  )


_PAPER_COLUMNS = (
  *('', 'pre-trained on', 'px', 'epochs', 'top-1, %', 'of', 'ReaL, %', 'Avg 5, %', 'VTAB-1k, %'),
  *('images/s', 'core-days'),
)


def paper_comparison(
  compared: Sequence[Run], paper: Mapping[str, Sequence[Published]]
) -> Iterator[Html]:
  """Yield a table of the runs that the paper has rows for, each above those rows."""
  if not any(paper.get(run.name) for run in compared):
    return
  yield tag('h2', 'Compared with the paper')
  body: list[list[Child]] = []
  for place, run in enumerate(compared):
    paper_rows = paper.get(run.name, ())
    if paper_rows:
      body.append(_own_row(run, place, paper_rows[0]))
    percent = lambda value: '–' if value is None else f'{value:.2f}'
    body += [
      [
        tag('span', f"the paper's {row['variant']} (Table {row['table']})", class_='soft'),
        row['data'],
        row['size'],
        row['epochs'],
        percent(row['imagenet']),
        'ImageNet',
        percent(row['real']),
        percent(row['avg5']),
        percent(row['vtab']),
        f'{row["images_per_second"]:,}',
        f'{row["core_days"]:,}',
      ]
      for row in paper_rows
    ]
  words = [_PAPER_COLUMNS.index(name) for name in ('pre-trained on', 'of')]
  yield table(_PAPER_COLUMNS, body, label='runs compared with the paper', words=words)
  yield tag(
    'p',
    'The paper (arXiv 2105.01601) reports accuracies after fine-tuning on ImageNet, inference in '
    'images/s per TPU-v3 core, and core-days of pre-training on TPU v3. Images/s and core-days '
    'of a run here are those of its own training, on its own devices.',
    class_='soft',
  )


def _own_row(run: Run, place: int, paper_row: Published) -> list[Child]:
  config = run.config
  split = '/'.join(str(config.get(f'data.{name}', '')) for name in ('name', 'eval_split'))
  rate = run.images_per_second
  return [
    label_of(run, place),
    paper_row['data'],
    config.get('model.image_size', '–'),
    _epochs(run, paper_row),
    _percent(run.event_curve('eval', 'top1')),
    split,
    _percent(run.event_curve('eval', 'real')),
    '–',
    '–',
    '–' if rate is None else f'{rate:,.0f}',
    number(round(run.device_hours / 24, 4)),
  ]


def _epochs(run: Run, paper_row: Published) -> str:
  """Epochs over the paper's pre-training data; '–' for a fine-tuned run."""
  batch = run.config.get('batch_size')
  if run.config.get('init_from') or not isinstance(batch, int):
    return '–'
  return number(round(run.step * batch / paper_row['images'], 1))
