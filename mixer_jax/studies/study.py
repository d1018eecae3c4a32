"""Several training runs that answer one question, in one folder; each goes on where it stopped."""

import argparse
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mixer_jax.errors import PreemptedError, UserError
from mixer_jax.parallel import processes
from mixer_jax.runlog.metrics import read_metrics
from mixer_jax.runs import pod, training_run, workdir
from mixer_jax.runs.experiment import Experiment, build_experiment
from mixer_jax.runs.fields import flatten
from mixer_jax.runs.run_config import RunConfig

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run of a study."""

  name: str
  """Told while it runs, and where it is refused: 'mixer on pixels, seed 0'."""
  config: RunConfig
  folder: str
  """Its workdir, local or in a bucket."""


def join(
  command: str,
  args: argparse.Namespace,
  config: Mapping[str, Any],
  runs: Sequence[Run],
) -> None:
  """Joins the other processes of a pod, with the limits of the first run's config.

  Args:
    config: that of the study, which all processes must have alike.
  """
  first = runs[0].config
  settings = pod.settings_of(vars(args), first.to_fields())
  pod.join(command, settings, first.processes, preemptible=True)
  processes.check_same({name: repr(value) for name, value in flatten(config).items()})


def check(runs: Sequence[Run]) -> list[Experiment]:
  """What each run would train; writes nothing. All processes call it alike.

  Raises:
    UserError: a run could not begin or go on; the message names it.
  """
  return [_checked(run) for run in runs]


def _checked(run: Run) -> Experiment:
  known = stored(run)
  try:
    return build_experiment(run.config, known and known['model'])
  except UserError as error:
    raise UserError(f'{run.name}: {error}') from error


def stored(run: Run) -> dict[str, Any] | None:
  """What the run's folder holds of it; None where it was not begun.

  Raises:
    UserError: the folder holds another run; the message names this one.
  """
  try:
    known = workdir.stored_run(run.folder)
    if known:
      workdir.check_same_run(run.folder, run.config, known)
    return known
  except UserError as error:
    raise UserError(f'{run.name}: {error}') from error


def train_all(runs: Sequence[Run]) -> None:
  """Trains one after the other; those that came to their end are passed over.

  Raises:
    PreemptedError: told to leave; the run under way has saved its state.
  """
  for number, run in enumerate(runs):
    train_one(run, f'run {number + 1} of {len(runs)}')


def train_one(run: Run, which: str) -> None:
  """Trains a run, unless it came to its end before.

  Args:
    which: told before its name, as 'run 3 of 18'.

  Raises:
    PreemptedError: told to leave; the run has saved its state.
  """
  done = is_done(run.folder)
  processes.check_same({f'what {run.folder} holds': str(done)})
  if done:
    return
  log.info('%s: %s', which, run.name)
  try:
    training_run.train_experiment(_checked(run), run.folder, show_parameters=False)
  except PreemptedError:
    processes.leave_together()
    raise


def leave() -> bool:
  """Behind the last run: leaves the pod; whether this process sums up and writes."""
  is_first = processes.is_main()
  processes.leave_together()
  return is_first


def is_done(folder: str) -> bool:
  """Whether the run in this folder came to its end."""
  return any(row.get('event') == 'end' for row in read_metrics(folder))


def curve(folder: str, metric: str = 'top1') -> dict[int, float]:
  """Step -> metric of the evaluations of a run; of its few-shot ones, where it is '5-shot'."""
  return {
    row['step']: row[metric]
    for row in read_metrics(folder)
    if row.get('event') in ('eval', 'fewshot') and metric in row
  }


def outcome(folder: str, metric: str = 'top1') -> float:
  """What a run that is done came to, of the state that it is reported by.

  That is its best where it keeps that, also behind an early stop, or its last; on the test
  split, where there is one.
  """
  rows = read_metrics(folder)
  tested = [row[metric] for row in rows if row.get('event') == 'test' and metric in row]
  last = end(folder)
  return tested[-1] if tested else curve(folder, metric)[last.get('best_step', last['step'])]


def end(folder: str) -> dict[str, Any]:
  """The last row of a run that is done: `step`, and `best_step` where it keeps its best."""
  return [row for row in read_metrics(folder) if row.get('event') == 'end'][-1]
