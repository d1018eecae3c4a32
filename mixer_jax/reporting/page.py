"""The page of `mixer-jax report`: runs beside each other and beside the paper's, and studies."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mixer_jax.reporting import figures, html, runs
from mixer_jax.reporting.charts import Series, color, legend, line_chart, number
from mixer_jax.reporting.html import Child, Html, table, tag
from mixer_jax.reporting.runs import Run

Published = Mapping[str, Any]
"""A row of the paper's tables, by the fields of `planning.paper.Published`; and `images`, how many
its pre-training split has."""


@dataclasses.dataclass(frozen=True)
class Study:
  """Several runs that answer one question, as their folder has them.

  Attributes:
    figures: what its JSON files hold, by file name.
    pictures: PNGs by file name.
    runs: the training runs below it.
    faults: what could not be read, in words.
  """

  name: str
  place: str
  figures: Mapping[str, Any]
  pictures: Mapping[str, bytes]
  runs: Sequence[Run] = ()
  faults: Sequence[str] = ()


def build(
  compared: Sequence[Run], studies: Sequence[Study], paper: Mapping[str, Sequence[Published]]
) -> Html:
  """One self-contained document.

  Args:
    compared: runs that are laid over one another.
    studies: each has a part of its own.
    paper: by the names of runs, the paper's rows of their variant and data.
  """
  names = [*(run.name for run in compared), *(study.name for study in studies)]
  title = ', '.join(names[:4]) + (f' and {len(names) - 4} more' if len(names) > 4 else '')
  return html.page(
    f'{title} · mixer_jax',
    tag('h1', title),
    tag('p', counted(compared, studies), ', as mixer-jax report found them', class_='soft'),
    _of_runs(compared, paper) if compared else None,
    map(_of_study, studies),
  )


def counted(compared: Sequence[Run], studies: Sequence[Study]) -> str:
  """'2 training runs and 1 study'."""
  count = lambda n, one, many: f'{n} {one if n == 1 else many}' if n else ''
  told = (
    count(len(compared), 'training run', 'training runs'),
    count(len(studies), 'study', 'studies'),
  )
  return ' and '.join(filter(None, told))


def _of_runs(compared: Sequence[Run], paper: Mapping[str, Sequence[Published]]) -> Iterator[Html]:
  yield from _faults(fault for run in compared for fault in run.faults)
  yield tag('h2', 'Runs')
  yield _run_table(compared)
  yield from _beside_paper(compared, paper)
  yield from _curves(compared)
  if len(compared) > 1:
    yield from _differences(compared)
  yield from _events(compared)
  yield tag('h2', 'Settings and predictions')
  yield from (_details(run) for run in compared)


def _faults(faults) -> Iterator[Html]:
  for fault in faults:
    yield tag('p', fault, class_='warn')


def _label(run: Run, place: int) -> Html:
  return tag('span', run.name, class_=f'run {color(place)}')


def _percent(points: Sequence[tuple[int, float]], best: bool = False) -> str:
  if not points:
    return '–'
  step, value = max(points, key=lambda point: point[1]) if best else points[-1]
  return f'{value:.2f} at {step:,}' if best else f'{value:.2f}'


def _run_table(compared: Sequence[Run], *, study: str = '') -> Html:
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
    total = run.config.get('total_steps')
    whole = f' of {total:,}' if type(total) is int and total != run.step else ''
    rows.append({
      'run': run.name if study else _label(run, place),
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


def _beside_paper(
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
    _label(run, place),
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


def _curves(compared: Sequence[Run]) -> Iterator[Html]:
  marks = [
    (float(step), place, f'{run.name} went on from step {step:,}')
    for place, run in enumerate(compared)
    for step in run.restarts
  ]
  both = 'thick: evaluation; thin: training batches'
  chart = lambda title, lines, **more: line_chart(title, lines, marks=marks, **more)
  shots = dict.fromkeys(name for run in compared for name in run.metrics('fewshot'))
  charts = [
    chart('Loss', _lines(compared, 'loss', 'loss'), note=both, log=True),
    chart('Top-1, %', _lines(compared, 'accuracy', 'top1', scale=100), note=both),
    *(
      chart(f'Few-shot: {name}, %', _lines(compared, None, name, event='fewshot'))
      for name in shots
      if name.endswith('-shot')
    ),
    chart('Learning rate', _lines(compared, 'learning_rate', None, faint=False)),
    chart('Gradient norm', _lines(compared, 'grad_norm', None, faint=False), log=True),
    chart('Training, images/s', _lines(compared, 'images_per_second', None, faint=False)),
  ]
  if any(charts):
    yield tag('h2', 'Curves')
    yield legend([run.name for run in compared])
    yield tag('div', charts, class_='charts')
    if marks:
      yield tag('p', 'Short lines at the bottom: a run was restarted there.', class_='soft')


def _lines(
  compared: Sequence[Run],
  trained: str | None,
  seen: str | None,
  *,
  event: str = 'eval',
  scale: float = 1,
  faint: bool = True,
) -> list[Series]:
  """The curves of one chart: a metric of the training batches, and one of events."""
  lines = []
  for place, run in enumerate(compared):
    if trained:
      points = [(step, scale * value) for step, value in run.trained(trained)]
      label = f'{run.name}, batches' if faint else run.name
      lines.append(Series(label, points, place, faint=faint))
    if seen:
      lines.append(Series(run.name, run.seen(event, seen), place, dots=True))
  return lines


def _differences(compared: Sequence[Run]) -> Iterator[Html]:
  yield tag('h2', 'Settings that differ')
  known = [run for run in compared if run.config]
  names = list(dict.fromkeys(name for run in known for name in run.config))
  missing = object()
  differ = [
    name for name in names if len({repr(run.config.get(name, missing)) for run in known}) > 1
  ]
  if not differ:
    yield tag('p', 'None: the configs are the same.')
    return
  header = ['field', *(_label(run, place) for place, run in enumerate(compared) if run.config)]
  body = [[name, *(_value(run.config, name) for run in known)] for name in differ]
  yield table(header, body, label='settings that differ', words=range(1, len(header)))


def _value(config: Mapping[str, Any], name: str) -> Child:
  if name not in config:
    return '–'
  value = config[name]
  return repr(value) if value == '' else str(value)


def _events(compared: Sequence[Run]) -> Iterator[Html]:
  body: list[list[Child]] = []
  for place, run in enumerate(compared):
    label = _label(run, place)
    told = [(f'{event.step:,}', event.time, event.text) for event in runs.events(run)]
    if saved := runs.saves(run):
      told.append(('', '', saved))
    body += [[label, *texts] for texts in told]
  if body:
    yield tag('h2', 'Events')
    yield table(['run', 'step', 'time, UTC', 'event'], body, label='events', words=[3])


def _details(run: Run) -> Html:
  settings = table(
    ['field', 'value'],
    [[name, _value(run.config, name)] for name in run.config],
    label=f'settings of {run.name}',
    words=[1],
  )
  return tag(
    'details',
    tag('summary', run.name, ' ', tag('span', run.place, class_='soft')),
    (_shown(name, png, run.name) for name, png in run.pictures.items()),
    settings if run.config else None,
  )


def _shown(name: str, png: bytes, whose: str) -> Html:
  image = html.picture(png, f'{name} of {whose}')
  return tag('figure', image, tag('figcaption', name), class_='shown')


def _of_study(study: Study) -> Iterator[Html]:
  yield tag('h2', study.name)
  yield tag('p', study.place, class_='soft')
  yield from _faults(study.faults)
  yield from (_shown(name, png, study.name) for name, png in study.pictures.items())
  for name, value in study.figures.items():
    if len(study.figures) > 1:
      yield tag('h3', name)
    yield from figures.told(value)
  if study.runs:
    yield tag('h3', 'Its runs')
    yield _run_table(study.runs, study=study.name)
    yield from _faults(fault for run in study.runs for fault in run.faults)
