"""The page of `mixer-jax report`: runs beside each other and beside the paper's, and studies."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mixer_jax.webpage import figures, html, runs
from mixer_jax.webpage.charts import Series, legend, line_chart
from mixer_jax.webpage.html import Child, Html, table, tag
from mixer_jax.webpage.run_tables import Published, beside_paper, label_of, run_table
from mixer_jax.webpage.runs import Run


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
  yield run_table(compared)
  yield from beside_paper(compared, paper)
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
  header = ['field', *(label_of(run, place) for place, run in enumerate(compared) if run.config)]
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
    label = label_of(run, place)
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
  # What a study has drawn is its result; other files may be what it was made from.
  drawn = [name for name in study.figures if f'{name.removesuffix(".json")}.png' in study.pictures]
  shown = drawn or list(study.figures)
  for name, value in study.figures.items():
    if name not in shown:
      yield tag('details', tag('summary', name), figures.told(value))
      continue
    if len(shown) > 1:
      yield tag('h3', name)
    yield from figures.told(value)
  if study.runs:
    yield tag('h3', 'Its runs')
    yield run_table(study.runs, study=study.name)
    yield from _faults(fault for run in study.runs for fault in run.faults)
