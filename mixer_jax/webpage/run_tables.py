"""Tables of runs, and of what the paper has for them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mixer_jax.webpage.charts import color, number
from mixer_jax.webpage.html import Child, Html, table, tag
from mixer_jax.webpage.runs import Run

Published = Mapping[str, Any]
"""A row of the paper's tables, by the fields of `planning.paper.Published`; and `images`, how many
its pre-training split has."""


def label_of(run: Run, place: int) -> Html:
  """A run's name behind its colour; `place`: its number."""
  return tag('span', run.name, class_=f'run {color(place)}')


def _percent(points: Sequence[tuple[int, float]], best: bool = False) -> str:
  if not points:
    return '–'
  step, value = max(points, key=lambda point: point[1]) if best else points[-1]
  return f'{value:.2f} at {step:,}' if best else f'{value:.2f}'


def run_table(compared: Sequence[Run], *, study: str = '') -> Html:
  """A row for each run, of a study where one is named. Columns that no run fills are left out."""
  rows: list[dict[str, Child]] = []
  for place, run in enumerate(compared):
    few = {
      f'{metric}, %': _percent(run.seen('fewshot', metric))
      for metric in run.metrics('fewshot')
      if metric.endswith('-shot')
    }
    real, test = run.seen('eval', 'real'), run.seen('test', 'top1')
    losses = run.seen('eval', 'loss')
    # Of a run that counts epochs no field tells the steps.
    total = None if run.config.get('total_epochs') else run.config.get('total_steps')
    whole = f' of {total:,}' if type(total) is int and total != run.step else ''
    rows.append({
      'run': run.name if study else label_of(run, place),
      'variant': run.model.variant if run.model else '–',
      'parameters': f'{run.model.parameters:,}' if run.model else '–',
      'GFLOP': number(run.model.gflop) if run.model else '–',
      'data': run.data,
      'steps': f'{run.step:,}{whole}',
      'top-1, %': _percent(run.seen('eval', 'top1')),
      'best, at step': _percent(run.seen('eval', 'top1'), best=True),
      **({'ReaL, %': _percent(real)} if real else {}),
      **({'test top-1, %': _percent(test)} if test else {}),
      **few,
      'loss': number(losses[-1][1]) if losses else '–',
      'images/s': '–' if run.images_per_second is None else f'{run.images_per_second:,.0f}',
      'device-hours': f'{run.device_hours:,.2f}',
      'core-days': number(round(run.device_hours / 24, 4)),
    })  # fmt: skip
  # In the order of the fullest row, so that what only some have keeps its place.
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


def beside_paper(
  compared: Sequence[Run], paper: Mapping[str, Sequence[Published]]
) -> Iterator[Html]:
  """The runs that the paper has rows for, each above those rows."""
  if not any(paper.get(run.name) for run in compared):
    return
  yield tag('h2', "Beside the paper's")
  body: list[list[Child]] = []
  for place, run in enumerate(compared):
    theirs = paper.get(run.name, ())
    if theirs:
      body.append(_as_paper(run, place, theirs[0]))
    known = lambda value: '–' if value is None else f'{value:.2f}'
    body += [
      [
        tag('span', f"the paper's {row['variant']} (Table {row['table']})", class_='soft'),
        row['data'],
        row['size'],
        row['epochs'],
        known(row['imagenet']),
        'ImageNet',
        known(row['real']),
        known(row['avg5']),
        known(row['vtab']),
        f'{row["images_per_second"]:,}',
        f'{row["core_days"]:,}',
      ]
      for row in theirs
    ]
  words = [_PAPER_COLUMNS.index(name) for name in ('pre-trained on', 'of')]
  yield table(_PAPER_COLUMNS, body, label="runs beside the paper's", words=words)
  yield tag(
    'p',
    'The paper (arXiv 2105.01601) gives accuracies behind fine-tuning on ImageNet, inference in '
    'images/s on a TPU-v3 core, and the core-days of pre-training on TPU v3. Images/s and '
    'core-days of a run here are those of its own training, on its own devices.',
    class_='soft',
  )


def _as_paper(run: Run, place: int, theirs: Published) -> list[Child]:
  config = run.config
  measured = '/'.join(str(config.get(f'data.{name}', '')) for name in ('name', 'eval_split'))
  rate = run.images_per_second
  return [
    label_of(run, place),
    theirs['data'],
    config.get('model.image_size', '–'),
    _epochs(run, theirs),
    _percent(run.seen('eval', 'top1')),
    measured,
    _percent(run.seen('eval', 'real')),
    '–',
    '–',
    '–' if rate is None else f'{rate:,.0f}',
    number(round(run.device_hours / 24, 4)),
  ]


def _epochs(run: Run, theirs: Published) -> str:
  """Over the data that the paper's was pre-trained on; fine-tuning has others."""
  batch = run.config.get('batch_size')
  if run.config.get('init_from') or not isinstance(batch, int):
    return '–'
  return number(round(run.step * batch / theirs['images'], 1))
