"""The page of `mixer-jax report`: runs compared with each other and the paper's, and studies."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mixer_jax.webpage import figures, html, runs
from mixer_jax.webpage.charts import Series, legend, line_chart
from mixer_jax.webpage.html import Child, Html, table, tag
from mixer_jax.webpage.run_tables import Published, label_of, paper_comparison, run_table
from mixer_jax.webpage.runs import Run


@dataclasses.dataclass(frozen=True)
class Study:
  """Several runs that answer one question, as read from their folder.

  Attributes:
    figures: content of its JSON files, by file name.
    pictures: PNGs by file name.
    runs: the training runs below its folder.
    faults: what could not be read, one sentence each.
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
  """Build one self-contained document.

  Args:
    compared: runs that share tables and charts.
    studies: each has a section of its own.
    paper: run name -> the paper's rows for its variant and data.
  """
  names = [*(run.name for run in compared), *(study.name for study in studies)]
  title = ', '.join(names[:4]) + (f' and {len(names) - 4} more' if len(names) > 4 else '')
  return html.page(
    f'{title} · mixer_jax',
    tag('h1', title),
    tag('p', summary(compared, studies), ', collected by mixer-jax report', class_='soft'),
    _runs_section(compared, paper) if compared else None,
    map(_study_section, studies),
  )


def summary(compared: Sequence[Run], studies: Sequence[Study]) -> str:
  """Return the number of runs and studies in words: '2 training runs and 1 study'."""
  count = lambda n, one, many: f'{n} {one if n == 1 else many}' if n else ''
  counts = (
    count(len(compared), 'training run', 'training runs'),
    count(len(studies), 'study', 'studies'),
  )
  return ' and '.join(filter(None, counts))


def _runs_section(
  compared: Sequence[Run], paper: Mapping[str, Sequence[Published]]
) -> Iterator[Html]:
  yield from _faults(fault for run in compared for fault in run.faults)
  yield tag('h2', 'Runs')
  yield run_table(compared)
  yield from paper_comparison(compared, paper)
  yield from _curves(compared)
  if len(compared) > 1:
    yield from _differences(compared)
  yield from _events(compared)
  yield tag('h2', 'Settings and predictions')
  yield from (_details(run) for run in compared)


def _faults(faults) -> Iterator[Html]:
  for fault in faults:
    yield tag('p', fault, class_='warn')


def _curves(compared: Sequence[Run]) -> Iterator[Html]:
  marks = [
    (float(step), place, f'{run.name} resumed after step {step:,}')
    for place, run in enumerate(compared)
    for step in run.restarts
  ]
  note = 'thick: evaluation; thin: training batches'
  chart = lambda title, lines, **more: line_chart(title, lines, marks=marks, **more)
  shots = dict.fromkeys(name for run in compared for name in run.metrics('fewshot'))
  charts = [
    chart('Loss', _lines(compared, 'loss', 'loss'), note=note, log=True),
    chart('Top-1, %', _lines(compared, 'accuracy', 'top1', scale=100), note=note),
    *(
      chart(f'Few-shot: {name}, %', _lines(compared, None, name, event='fewshot'))
      for name in shots
      if name.endswith('-shot')
    ),
    chart('Learning rate', _lines(compared, 'learning_rate', None, faint=False)),
    chart('Gradient norm', _lines(compared, 'grad_norm', None, faint=False), log=True),
    chart('Training, images/s', _lines(compared, 'images_per_second', None, faint=False)),
    chart('Waiting for input, %', _lines(compared, 'input_wait', None, scale=100, faint=False)),
  ]
  if any(charts):
    yield tag('h2', 'Curves')
    yield legend([run.name for run in compared])
    yield tag('div', charts, class_='charts')
    if marks:
      yield tag('p', 'Short lines at the bottom mark restarts.', class_='soft')


def _lines(
  compared: Sequence[Run],
  training: str | None,
  evaluation: str | None,
  *,
  event: str = 'eval',
  scale: float = 1,
  faint: bool = True,
) -> list[Series]:
  """Return the curves of one chart: a metric of training batches, and one of events."""
  lines = []
  for place, run in enumerate(compared):
    if training:
      points = [(step, scale * value) for step, value in run.training_curve(training)]
      label = f'{run.name}, batches' if faint else run.name
      lines.append(Series(label, points, place, faint=faint))
    if evaluation:
      lines.append(Series(run.name, run.event_curve(event, evaluation), place, dots=True))
  return lines


def _differences(compared: Sequence[Run]) -> Iterator[Html]:
  yield tag('h2', 'Settings that differ')
  readable = [run for run in compared if run.config]
  names = list(dict.fromkeys(name for run in readable for name in run.config))
  missing = object()
  differ = [
    name for name in names if len({repr(run.config.get(name, missing)) for run in readable}) > 1
  ]
  if not differ:
    yield tag('p', 'None: the configs are the same.')
    return
  header = ['field', *(label_of(run, place) for place, run in enumerate(compared) if run.config)]
  body = [[name, *(_value(run.config, name) for run in readable)] for name in differ]
  yield table(header, body, label='settings that differ', words=range(1, len(header)))


def _value(config: Mapping[str, Any], name: str) -> Child:
  if name not in config:
    return '–'
  value = config[name]
  return repr(value) if value == '' else str(value)


def _events(compared: Sequence[Run]) -> Iterator[Html]:
  body: list[list[Child]] = []
  for place, run in enumerate(compared):
    label = label_of(run, place)
    rows = [(f'{event.step:,}', event.time, event.text) for event in runs.events(run)]
    if saved := runs.saves(run):
      rows.append(('', '', saved))
    if run.input_wait is not None:
      waited = f'the devices waited for input {100 * run.input_wait:.0f} % of the time'
      rows.append(('', '', waited))
    body += [[label, *texts] for texts in rows]
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
    (_picture(name, png, run.name) for name, png in run.pictures.items()),
    settings if run.config else None,
  )


def _picture(name: str, png: bytes, owner: str) -> Html:
  image = html.picture(png, f'{name} of {owner}')
  return tag('figure', image, tag('figcaption', name), class_='shown')


def _study_section(study: Study) -> Iterator[Html]:
  yield tag('h2', study.name)
  yield tag('p', study.place, class_='soft')
  yield from _faults(study.faults)
  yield from (_picture(name, png, study.name) for name, png in study.pictures.items())
  # Files with a picture are results; the others may be intermediate.
  drawn = [name for name in study.figures if f'{name.removesuffix(".json")}.png' in study.pictures]
  shown = drawn or list(study.figures)
  for name, value in study.figures.items():
    if name not in shown:
      yield tag('details', tag('summary', name), figures.elements(value))
      continue
    if len(shown) > 1:
      yield tag('h3', name)
    yield from figures.elements(value)
  if study.runs:
    yield tag('h3', 'Its runs')
    yield run_table(study.runs, study=study.name)
    yield from _faults(fault for run in study.runs for fault in run.faults)
