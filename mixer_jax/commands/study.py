"""Several training runs that answer one question, in one folder; each goes on where it stopped."""

import argparse
import dataclasses
import logging
from collections.abc import Sequence

from ml_collections import ConfigDict

from mixer_jax.commands import arguments, experiment, training, workdir
from mixer_jax.commands.experiment import Experiment
from mixer_jax.errors import PreemptedError, UserError
from mixer_jax.parallel import processes
from mixer_jax.reporting.metrics import read_metrics
from mixer_jax.reporting.startup import Startup
from mixer_jax.reporting.terminal import Terminal

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run of a study."""

  name: str
  """Told while it runs, and where it is refused: 'mixer on pixels, seed 0'."""
  config: ConfigDict
  folder: str
  """Its workdir, local or in a bucket."""


def join(
  command: str,
  args: argparse.Namespace,
  config: ConfigDict,
  runs: Sequence[Run],
  terminal: Terminal,
) -> None:
  """Joins the other processes of a pod, with the limits of the first run's config.

  Args:
    config: that of the study, which all processes must have alike.
  """
  experiment.join_processes(command, args, runs[0].config, terminal, preemptible=True)
  processes.check_same({name: repr(value) for name, value in arguments.fields(config).items()})


def check(runs: Sequence[Run]) -> list[Experiment]:
  """What each run would train; writes nothing. All processes call it alike.

  Raises:
    UserError: a run could not begin or go on; the message names it.
  """
  return [_checked(run) for run in runs]


def _checked(run: Run) -> Experiment:
  try:
    known = workdir.stored_run(run.folder)
    if known:
      workdir.check_same_run(run.folder, run.config, known)
    return experiment.check(run.config, known and known['model'])
  except UserError as error:
    raise UserError(f'{run.name}: {error}') from error


def train_all(runs: Sequence[Run], terminal: Terminal) -> None:
  """Trains one after the other; those that came to their end are passed over.

  Raises:
    PreemptedError: told to leave; the run under way has saved its state.
  """
  try:
    for number, run in enumerate(runs):
      done = is_done(run.folder)
      processes.check_same({f'what {run.folder} holds': str(done)})
      if not done:
        log.info('run %d of %d: %s', number + 1, len(runs), run.name)
        training.run(run.config, run.folder, terminal, Startup())
  except PreemptedError:
    processes.leave_together()
    raise


def leave() -> bool:
  """Behind the last run: leaves the pod; whether this process sums up and writes."""
  is_first = experiment.tells()
  processes.leave_together()
  return is_first


def is_done(folder: str) -> bool:
  """Whether the run in this folder came to its end."""
  return any(row.get('event') == 'end' for row in read_metrics(folder))


def curve(folder: str, metric: str = 'top1') -> dict[int, float]:
  """Step -> metric of the evaluations of a run."""
  return {row['step']: row[metric] for row in read_metrics(folder) if row.get('event') == 'eval'}
