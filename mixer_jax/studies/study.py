"""Steps that all studies share: runs of one folder that are checked, trained and reported.

A study is started again with the same command, and resumes: runs that ended are not trained again.
"""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from mixer_jax.checkpoints import run_states
from mixer_jax.errors import ApartError, NotFiniteError, PreemptedError, StorageError, UserError
from mixer_jax.parallel import processes
from mixer_jax.parallel.preemption import preemptible, stop_point
from mixer_jax.parallel.processes import ProcessesConfig
from mixer_jax.paths import is_remote, user_path, write_whole
from mixer_jax.pictures.drawing import tolerated
from mixer_jax.runlog.metrics import MetricsFile, read_metrics
from mixer_jax.runs import pod, run_report
from mixer_jax.runs.config_versions import as_begun
from mixer_jax.runs.experiment import Experiment, build_experiment
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.runs.train_result import TrainResult, result_of
from mixer_jax.runs.training_run import train_experiment
from mixer_jax.runs.workdir import check_stored

log = logging.getLogger(__name__)

_RESULTS = ('.json', '.npz', '.png', '.txt')


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run of a study."""

  name: str
  """For messages: 'mixer on pixels, seed 0'."""
  config: RunConfig
  folder: str
  """Its workdir, local or in a bucket."""
  labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  """Place of the run in the study: {'model': 'mixer', 'inputs': 'pixels'}."""


@dataclasses.dataclass(frozen=True)
class Variation:
  """One variant of a model's experiment, trained from each seed."""

  name: str
  """For messages: 'mixer on pixels'."""
  folder: str
  """Folder of its seeds in that of the study: 'mixer/pixels'."""
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  """Dotted name -> value of the fields that differ from the model's experiment."""
  labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  """Labels of its runs, in addition to `model`."""


@dataclasses.dataclass(frozen=True)
class Planned:
  """A run that was checked, and the experiment that the check has built."""

  run: Run
  experiment: Experiment


@dataclasses.dataclass(frozen=True)
class Trained:
  """A run that ended."""

  run: Run
  experiment: Experiment
  result: TrainResult


@dataclasses.dataclass(frozen=True)
class StudyReport:
  """Result of a study. `str(report)` is its text, and the names of the files."""

  values: dict[str, Any]
  """Content of its JSON file."""
  text: str
  """Tables and conclusions."""
  files: tuple[str, ...]
  """Names of the files that were written."""
  workdir: str

  def __str__(self) -> str:
    return f'{self.text}{", ".join(self.files[:-1])} and {self.files[-1]} are in {self.workdir}'


class Reporter(Protocol):
  """A module `studies.X_report`, which needs the content of the JSON file alone."""

  def text(self, values: dict[str, Any], /) -> str:
    """Tables and conclusions for the terminal."""
    ...

  def files(self, values: dict[str, Any], /) -> Mapping[str, bytes | str]:
    """File name -> content, of the files next to the JSON file."""
    ...


def expand(
  models: Mapping[str, RunConfig],
  seeds: int,
  workdir: str,
  vary: Callable[[str, RunConfig], Sequence[Variation]],
) -> list[Run]:
  """Runs of every seed, model and variation; those of one seed before those of the next.

  Args:
    models: name -> experiment; seeds are counted from its own.
    vary: (name, experiment) -> its variations.

  Raises:
    UserError: a variation has a wrong field; the message names its first run.
  """
  runs = []
  for number in range(seeds):
    for model, config in models.items():
      seed = config.seed + number
      for variation in vary(model, config):
        name = f'{variation.name}, seed {seed}'
        with named(name):
          own = config.with_fields({**variation.fields, 'seed': seed})
        folder = f'{user_path(workdir)}/{variation.folder}/{seed}'
        runs.append(Run(name, own, folder, {'model': model, **variation.labels}))
  return runs


def join(
  command: str, config: Any, workdir: str, limits: ProcessesConfig, **settings: object
) -> None:
  """Joins the other processes of a pod, which must have been started with the same settings.

  Args:
    config: that of the study, a dataclass.
    settings: arguments of the study, by name.
  """
  flags = {'workdir': workdir, **settings}
  pod.join(command, pod.settings_of(flags, plain_fields(config)), limits, preemptible=True)
  processes.together(lambda: check_workdir(workdir))


def check_workdir(workdir: str) -> None:
  """Check, before anything is trained, that the results can be written.

  Raises:
    UserError: `workdir` is that of a run, or no folder, or cannot be written.
  """
  folder = user_path(workdir)
  if (folder / 'config.json').exists():
    raise UserError(f'{folder} is the workdir of a run: take another --workdir for the study')
  if is_remote(folder):
    return
  for entry in folder.iterdir() if folder.is_dir() else ():
    if entry.suffix in _RESULTS and entry.is_dir():
      raise UserError(f'{entry} is a folder, where a result of the study may come: remove it')
  place = pathlib.Path(os.path.abspath(folder))
  while not place.exists():
    place = place.parent
  if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
    reason = 'is not writable' if place.is_dir() else 'is no folder'
    raise UserError(f'{place} {reason}: take another --workdir')


def plain_fields(config: Any) -> Any:
  """Config of a study, and its groups, as nested dicts."""
  if isinstance(config, RunConfig):
    return config.to_fields()
  if dataclasses.is_dataclass(config):
    config = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
  if isinstance(config, Mapping):
    return {name: plain_fields(value) for name, value in config.items()}
  return config


def check(runs: Sequence[Run]) -> list[Planned]:
  """Builds the experiment of each run; writes nothing. All processes call it alike.

  Raises:
    UserError: a run could neither begin nor resume; the message names it.
  """
  return [_checked(run) for run in runs]


def _checked(run: Run) -> Planned:
  known = stored(run)
  if known:
    run = dataclasses.replace(run, config=as_begun(run.config, known))
  with named(run.name):
    return Planned(run, build_experiment(run.config, known and known['model']))


def stored(run: Run) -> dict[str, Any] | None:
  """Content of `config.json` in the run's folder; None if the run has not begun.

  Raises:
    UserError: the folder holds another run; the message names this one.
  """
  with named(run.name):
    return check_stored(run.folder, run.config)


def train_all(plan: Sequence[Planned]) -> list[Trained]:
  """Trains one after another; runs that ended before are not trained again.

  Raises:
    PreemptedError: a SIGTERM came; the run that was being trained has saved its state.
  """
  trained = []
  for number, (run, experiment) in enumerate((one.run, one.experiment) for one in plan):
    result = train_one(run, f'run {number + 1} of {len(plan)}', experiment)
    trained.append(Trained(run, experiment, result))
  return trained


def train_one(run: Run, label: str, experiment: Experiment | None = None) -> TrainResult:
  """Trains a run, unless it ended before and nothing of it is missing.

  Pictures that are missing are made again as long as the run has states.

  Args:
    label: logged before its name: 'run 3 of 18'.
    experiment: that of the run, if it is built already.

  Raises:
    PreemptedError: a SIGTERM came; the run has saved its state.
  """
  result = result_of(run.folder)
  processes.check_same({f'whether {run.folder} holds a run that ended': str(result is not None)})
  if result and (run_report.has_pictures(run.folder) or not run_states.has_states(run.folder)):
    return result
  log.info('%s: %s', label, run.name)
  try:
    experiment = experiment or _checked(run).experiment
    with preemptible(), named(run.name):
      result = train_experiment(experiment, run.folder, show_parameters=False)
      stop_point(f'after {run.name}')  # a request that the run had no use for ends the study
    return result
  except PreemptedError:
    processes.leave_together()
    raise


def train_unless_diverged(
  run: Run, label: str, experiment: Experiment | None = None
) -> TrainResult | str:
  """Trains a run as `train_one`; returns the reason if it diverged, now or before."""
  for row in read_metrics(run.folder):
    if row.get('event') == 'diverged':
      return row['reason']
  try:
    return train_one(run, label, experiment)
  except NotFiniteError as error:
    log.warning('%s diverged: %s', run.name, error)
    if processes.is_main():
      MetricsFile(run.folder).write({'event': 'diverged', 'reason': str(error)})
    return str(error)


def finish(
  workdir: str,
  name: str,
  make: Callable[[], dict[str, Any]],
  reporter: Reporter,
  more: Callable[[], Mapping[str, bytes]] = dict,
) -> StudyReport | None:
  """Leaves the pod after the last run; process 0 writes the results and returns them.

  Args:
    name: of the JSON file, without its suffix.
    make: makes the content of that file.
    more: makes files that do not follow from the JSON file.
  """
  writes = processes.is_main()
  processes.leave_together()
  return write(workdir, name, make(), reporter, more()) if writes else None


def write(
  workdir: str,
  name: str,
  values: dict[str, Any],
  reporter: Reporter,
  more: Mapping[str, bytes] | None = None,
) -> StudyReport:
  """Writes `name`.json and the other files of a study, each completely or not at all."""
  text = json.dumps(values, indent=2)
  values = json.loads(text)  # the reporter sees what a reader of the file sees
  files: dict[str, bytes | str] = {f'{name}.json': f'{text}\n', **(more or {})}
  with tolerated(f'the picture of {name}.json'):
    files |= reporter.files(values)
  folder = user_path(workdir)
  for file, data in files.items():
    write_whole(folder / file, data)
  return StudyReport(values, reporter.text(values), tuple(files), str(folder))


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
  """Puts the name of a run or model before the message of a `UserError`; its kind stays."""
  try:
    yield
  except NotFiniteError:
    raise  # a result of the run, not a fault
  except UserError as error:
    kinds = (StorageError, ApartError, UserError)
    kind = next(kind for kind in kinds if isinstance(error, kind))
    raise kind(f'{name}: {error}') from error
