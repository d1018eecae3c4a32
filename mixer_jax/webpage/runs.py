"""What the rows of `metrics.jsonl` tell of a run: curves, figures, and what happened to it."""

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
_LARGEST = 1e300
_LARGEST_STEP = 2**31  # steps are int32 on the device


@dataclasses.dataclass(frozen=True)
class Model:
  """What is told of a run's model."""

  variant: str
  parameters: int
  gflop: float
  """Of one image's forward pass."""


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run as its workdir has it.

  Attributes:
    name: short, unlike that of the other runs.
    place: its workdir.
    config: its fields by dotted name; empty where it could not be read.
    rows: those of `sound_rows`.
    damaged_states: steps of states that were set aside.
    faults: what of the workdir could not be read, in words.
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

  def trained(self, metric: str) -> list[tuple[int, float]]:
    """(step, value) of the logged steps; where one was done again, the later row counts."""
    return _by_step((row for row in self.rows if 'event' not in row), metric)

  def seen(self, event: str, metric: str) -> list[tuple[int, float]]:
    """(step, value) of the events of this kind, such as 'eval'."""
    return _by_step((row for row in self.rows if row.get('event') == event), metric)

  def metrics(self, event: str) -> list[str]:
    """The numbers that such events have, in the order in which they first come."""
    rows = (row for row in self.rows if row.get('event') == event)
    return list(dict.fromkeys(key for row in rows for key, value in row.items() if sound(value)))

  @property
  def step(self) -> int:
    """How far it has come."""
    return max((row['step'] for row in self.rows), default=0)

  @property
  def ended(self) -> bool:
    """Whether it came to its end."""
    return any(row.get('event') == 'end' for row in self.rows)

  @property
  def device_hours(self) -> float:
    """Devices × wall hours over all its starts."""
    ends = [row['device_hours'] for row in self.rows if 'device_hours' in row]
    return ends[-1] if ends else device_hours(self.rows)

  @property
  def images_per_second(self) -> float | None:
    """The median of the logged steps."""
    rates = [rate for _, rate in self.trained('images_per_second')]
    return statistics.median(rates) if rates else None

  @property
  def data(self) -> str:
    """The training data and its split."""
    name = self.config.get('data.name', '')
    return (
      f'{name}/{self.config["data.train_split"]}' if 'data.train_split' in self.config else name
    )

  @property
  def restarts(self) -> list[int]:
    """The steps from which it went on."""
    return [row['step'] for row in self.starts[1:]]

  @property
  def starts(self) -> list[Row]:
    """One row each; the other processes of a pod have rows of their own."""
    return [r for r in self.rows if r.get('event') == 'start' and not r.get('process')]


@dataclasses.dataclass(frozen=True)
class Event:
  """Something that happened to a run; `time`: UTC, '' where no row tells it."""

  step: int
  time: str
  text: str


def sound(value: Any) -> bool:
  """Whether it is a number that can be drawn and told."""
  return type(value) in (int, float) and -_LARGEST < value < _LARGEST


def sound_rows(rows: Sequence[Row]) -> list[Row]:
  """The rows with a step, whose numbers are numbers."""
  return [
    row
    for row in rows
    if type(row.get('step')) is int
    and 0 <= row['step'] < _LARGEST_STEP
    and isinstance(row.get('event', ''), str)
    and all(sound(row[name]) for name in _NUMBERS if name in row)
  ]


def events(run: Run) -> Iterator[Event]:
  """What happened to it, evaluations and saves left out, in its order; then damaged states."""
  begun, seconds, furthest, starts = None, 0.0, 0, 0
  for row in run.rows:
    seconds = row.get('seconds', seconds)
    is_start = row.get('event') == 'start' and not row.get('process')
    if is_start:
      begun = row['time'] - seconds if 'time' in row else None
    text = _started(row, starts, furthest) if is_start else _text(row)
    if text:
      yield Event(row['step'], _utc(begun, seconds), text)
    starts += is_start
    furthest = row['step'] if is_start else max(furthest, row['step'])
  for step in run.damaged_states:
    yield Event(step, '', 'the state of this step is damaged, and was set aside')


def saves(run: Run) -> str:
  """How many states were saved, and what that took, in words; '' of none."""
  blocked = [row.get('blocked', 0.0) for row in run.rows if row.get('event') == 'save']
  if not blocked:
    return ''
  states = '1 state' if len(blocked) == 1 else f'{len(blocked)} states'
  longest = f', the longest {max(blocked):.2f} s' if len(blocked) > 1 else ''
  return f'{states} saved; it stood still {sum(blocked):.2f} s for that{longest}'


def _started(row: Row, starts: int, furthest: int) -> str:
  where = f'{row["devices"]} × {row["device"]}' if {'devices', 'device'} <= row.keys() else ''
  on = f' on {where}' if where else ''
  if not starts:
    return f'begun{on}' if not row['step'] else f'its first row goes on from here{on}'
  again = furthest - row['step']
  lost = f'; {again:,} steps are done again' if again > 0 else ''
  return f'restarted{on}{lost}'


def _text(row: Row) -> str:
  if row.get('event') == 'preempted':
    return 'told to leave; its state was saved'
  if row.get('event') == 'early_stop':
    return f'stopped early: the best was at step {row.get("best_step")}'
  if row.get('event') == 'undecodable':
    names = row.get('names')
    shown = listed([str(name) for name in names]) if isinstance(names, list) else 'unknown'
    return f'training images that did not decode and were replaced: {shown}'
  return 'came to its end' if row.get('event') == 'end' else ''


def _utc(begun: float | None, seconds: float) -> str:
  try:
    moment = datetime.fromtimestamp((begun or -1) + seconds, UTC) if begun else None
  except (OverflowError, ValueError, OSError):
    moment = None
  return f'{moment:%Y-%m-%d %H:%M}' if moment else ''


def _by_step(rows: Iterator[Row], metric: str) -> list[tuple[int, float]]:
  found = {row['step']: row[metric] for row in rows if sound(row.get(metric))}
  return sorted(found.items())
