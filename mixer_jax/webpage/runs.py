"""A run as its `metrics.jsonl` describes it: curves, figures and events."""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mixer_jax.runlog.metrics import device_hours, listed

Row = Mapping[str, Any]

_NUMBERS = (
  *('loss', 'accuracy', 'top1', 'top5', 'real', 'learning_rate', 'grad_norm', 'seconds'),
  *('blocked', 'devices', 'process', 'time', 'device_hours', 'core_days', 'images'),
)
_MAX_NUMBER = 1e300
_MAX_STEP = 2**31  # steps are int32 on the device


@dataclasses.dataclass(frozen=True)
class Model:
  """Name and size of a run's model."""

  variant: str
  base_variant: str
  """The variant without its growth, as the paper lists it."""
  parameters: int
  gflop: float
  """GFLOP per image, forward pass."""


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run as read from its workdir.

  Attributes:
    name: short and unique.
    place: its workdir.
    config: its fields by dotted name; empty if it could not be read.
    rows: rows that `valid_rows` returned.
    damaged_states: steps of states that were set aside.
    faults: what could not be read, one sentence each.
    pictures: PNGs by file name.
  """

  name: str
  place: str
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  model: Model | None = None
  rows: Sequence[Row] = ()
  damaged_states: Sequence[int] = ()
  faults: Sequence[str] = ()
  pictures: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

  def training_curve(self, metric: str) -> list[tuple[int, float]]:
    """Return (step, value) of the logged steps; of a repeated step the later row counts."""
    return _by_step((row for row in self.rows if 'event' not in row), metric)

  def event_curve(self, event: str, metric: str) -> list[tuple[int, float]]:
    """Return (step, value) of the events of one kind, such as 'eval'."""
    return _by_step((row for row in self.rows if row.get('event') == event), metric)

  def metrics(self, event: str) -> list[str]:
    """Return the names of the numbers in such events, in order of first appearance."""
    rows = (row for row in self.rows if row.get('event') == event)
    return list(
      dict.fromkeys(key for row in rows for key, value in row.items() if is_number(value))
    )

  @property
  def step(self) -> int:
    """Last step that was logged."""
    return max((row['step'] for row in self.rows), default=0)

  @property
  def ended(self) -> bool:
    """True if the run is complete."""
    return any(row.get('event') == 'end' for row in self.rows)

  @property
  def device_hours(self) -> float:
    """Devices × wall hours, summed over all starts."""
    ends = [row['device_hours'] for row in self.rows if 'device_hours' in row]
    return ends[-1] if ends else device_hours(self.rows)

  @property
  def images_per_second(self) -> float | None:
    """Median over the logged steps."""
    return self._median('images_per_second')

  @property
  def input_wait(self) -> float | None:
    """Share of the time that the devices waited for input, 0 to 1; median over the logged steps."""
    return self._median('input_wait')

  def _median(self, metric: str) -> float | None:
    values = [value for _, value in self.training_curve(metric)]
    return statistics.median(values) if values else None

  @property
  def data(self) -> str:
    """Training data set and split."""
    name = self.config.get('data.name', '')
    return (
      f'{name}/{self.config["data.train_split"]}' if 'data.train_split' in self.config else name
    )

  @property
  def restarts(self) -> list[int]:
    """Steps after which the run was resumed."""
    return [row['step'] for row in self.starts[1:]]

  @property
  def starts(self) -> list[Row]:
    """Start rows of process 0; the other processes of a pod have rows of their own."""
    return [r for r in self.rows if r.get('event') == 'start' and not r.get('process')]


@dataclasses.dataclass(frozen=True)
class Event:
  """Something that happened to a run; `time`: UTC, '' if unknown."""

  step: int
  time: str
  text: str


def is_number(value: Any) -> bool:
  """Return True for a finite number that can be drawn."""
  return type(value) in (int, float) and -_MAX_NUMBER < value < _MAX_NUMBER


def valid_rows(rows: Sequence[Row]) -> list[Row]:
  """Return the rows that have a step and whose numbers are valid."""
  return [
    row
    for row in rows
    if type(row.get('step')) is int
    and 0 <= row['step'] < _MAX_STEP
    and isinstance(row.get('event', ''), str)
    and all(is_number(row[name]) for name in _NUMBERS if name in row)
  ]


def events(run: Run) -> Iterator[Event]:
  """Yield what happened, in order, without evaluations and saves; then the damaged states."""
  began, seconds, furthest, starts = None, 0.0, 0, 0
  for row in run.rows:
    seconds = row.get('seconds', seconds)
    is_start = row.get('event') == 'start' and not row.get('process')
    if is_start:
      began = row['time'] - seconds if 'time' in row else None
    text = _started(row, starts, furthest) if is_start else _text(row)
    if text:
      yield Event(row['step'], _utc(began, seconds), text)
    starts += is_start
    furthest = row['step'] if is_start else max(furthest, row['step'])
  for step in run.damaged_states:
    yield Event(step, '', 'the state of this step is damaged and was set aside')


def saves(run: Run) -> str:
  """Describe how many states were saved and how long training waited; '' if none."""
  blocked = [row.get('blocked', 0.0) for row in run.rows if row.get('event') == 'save']
  if not blocked:
    return ''
  states = '1 state' if len(blocked) == 1 else f'{len(blocked)} states'
  longest = f', the longest {max(blocked):.2f} s' if len(blocked) > 1 else ''
  return f'{states} saved; training waited {sum(blocked):.2f} s{longest}'


def _started(row: Row, starts: int, furthest: int) -> str:
  where = f'{row["devices"]} × {row["device"]}' if {'devices', 'device'} <= row.keys() else ''
  on = f' on {where}' if where else ''
  if not starts:
    return f'started{on}' if not row['step'] else f'first known start, resuming after this step{on}'
  again = furthest - row['step']
  lost = f'; {again:,} steps are repeated' if again > 0 else ''
  return f'restarted{on}{lost}'


def _text(row: Row) -> str:
  if row.get('event') == 'preempted':
    return 'asked to stop; its state was saved'
  if row.get('event') == 'early_stop':
    return f'stopped early: the best state is that of step {row.get("best_step")}'
  if row.get('event') == 'undecodable':
    names = row.get('names')
    shown = listed([str(name) for name in names]) if isinstance(names, list) else 'unknown'
    return f'training images that did not decode and were replaced: {shown}'
  return 'finished' if row.get('event') == 'end' else ''


def _utc(began: float | None, seconds: float) -> str:
  try:
    moment = datetime.fromtimestamp((began or -1) + seconds, UTC) if began else None
  except (OverflowError, ValueError, OSError):
    moment = None
  return f'{moment:%Y-%m-%d %H:%M}' if moment else ''


def _by_step(rows: Iterator[Row], metric: str) -> list[tuple[int, float]]:
  found = {row['step']: row[metric] for row in rows if is_number(row.get(metric))}
  return sorted(found.items())
