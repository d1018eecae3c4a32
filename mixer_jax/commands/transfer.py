"""`mixer-jax transfer`: a checkpoint fine-tuned to many tasks, each at its best learning rate."""

import argparse
import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from mixer_jax import checkpoints, models
from mixer_jax.checkpoints import store
from mixer_jax.data import tasks
from mixer_jax.data.catalog import open_source
from mixer_jax.data.tasks import Task
from mixer_jax.data.tfds_builders import NotPreparedError, check_place, prepared_builder
from mixer_jax.errors import ApartError, NotFiniteError, PreemptedError, StorageError, UserError
from mixer_jax.parallel import processes
from mixer_jax.paths import user_path
from mixer_jax.runlog import console
from mixer_jax.runlog.metrics import MetricsFile, read_metrics
from mixer_jax.runs import checkpoint_labels, config_file, experiment, workdir
from mixer_jax.studies import study, transfer_scores
from mixer_jax.studies.transfer_report import summed_up, tell, with_deviation, write
from mixer_jax.studies.transfer_scores import Mean, Score

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Plan:
  """What is trained for one task."""

  task: Task
  config: ConfigDict
  """The experiment, but for what differs between the task's runs."""
  rates: tuple[float, ...]
  seeds: int
  keep_sweep: bool
  folder: str

  def sweep(self) -> dict[float, study.Run]:
    """Learning rate -> the run that tries it, scored on the held-out part."""
    return {
      rate: self._run(f'sweep/{rate}', self.task.tuning, rate, self.config.seed)
      for rate in self.rates
    }

  def reported(self, rate: float) -> list[study.Run]:
    """The runs at a learning rate that are reported, one a seed."""
    seeds = range(self.config.seed, self.config.seed + self.seeds)
    return [self._run(f'report/{rate}/{s}', self.task.reporting, rate, s) for s in seeds]

  def runs(self) -> Iterator[study.Run]:
    """All that there may be."""
    yield from self.sweep().values()
    for rate in self.rates:
      yield from self.reported(rate)

  def _run(self, place: str, parts: tuple[str, str], rate: float, seed: int) -> study.Run:
    own = self.config.copy_and_resolve_references()
    with own.unlocked():
      own.data.train_split, own.data.eval_split = parts
      own.optimizer.learning_rate = rate
      own.seed = seed
    what = f'{self.task.name} at learning rate {rate}, seed {seed}, scored on {parts[1]}'
    return study.Run(what, own, f'{self.folder}/{self.task.name}/{place}')


def main(argv: list[str]) -> None:
  """Tries the learning rates on each task's held-out images, and reports its test images.

  The same command again goes on where it stopped, run by run. WORKDIR holds a folder for each run,
  `transfer.json` and `transfer.md`. Of each run the last state is kept, of those that chose the
  rate none behind the choice (config.keep_sweep). A task that fails does not stop the others,
  unless there are several processes, which could not agree on that.
  """
  parser = config_file.Parser('transfer', __doc__ or '')
  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument('--suite', help='all tasks of vtab or avg5')
  which.add_argument('--tasks', metavar='A,B,…', help='these: vtab/dtd,avg5/cifar10')
  parser.add_config(
    required=True,
    example='configs/transfer.py:B/16',
    note=", that of all tasks as in '--config.tasks.*.batch_size=256'",
  )
  parser.add_argument(
    '--checkpoint', help=f"to start from: {config_file.CHECKPOINT}; default: the config's init_from"
  )
  parser.add_argument('--workdir', required=True, help='folder of all runs, local or gs://…')
  args, overrides = parser.parse(argv)
  console.setup_console()
  chosen = _chosen(args)
  config = config_file.load_config(args.config, overrides)
  folder = user_path(args.workdir)
  plans = _plans(config, chosen, args.checkpoint or '', str(folder))
  study.join('transfer', args, config, list(plans[0].sweep().values()))
  _check(plans)
  start = plans[0].config.init_from
  variant, pretrained = processes.together(lambda: _origin(start))
  report = {'checkpoint': start, 'variant': variant, 'pretrained_on': pretrained, 'tasks': {}}
  with _held(folder):
    for number, plan in enumerate(plans):
      log.info('task %d of %d: %s', number + 1, len(plans), plan.task.name)
      report['tasks'][plan.task.name] = _attempted(plan)
      if experiment.tells():
        write(folder, summed_up(report))
  if study.leave():
    tell(summed_up(report), folder)


def _chosen(args: argparse.Namespace) -> list[Task]:
  if args.suite:
    return tasks.suite(args.suite)
  return [tasks.find_task(name) for name in dict.fromkeys(args.tasks.split(','))]


def _plans(config: ConfigDict, chosen: list[Task], checkpoint: str, folder: str) -> list[_Plan]:
  groups = [name for name, value in config.items() if isinstance(value, ConfigDict)]
  if set(config) != {'seeds', 'keep_sweep', *groups} or set(groups) != {'learning_rates', 'tasks'}:
    raise UserError(
      'the config has the fields seeds and keep_sweep and the groups learning_rates and tasks: '
      'begin with configs/transfer.py'
    )
  if type(config.seeds) is not int or config.seeds < 1:
    raise UserError(f'config.seeds must be a whole number, at least 1, is {config.seeds!r}')
  plans = []
  for task in chosen:
    if task.name not in config.tasks:
      raise UserError(f'config.tasks has no experiment for {task.name}')
    own = config.tasks[task.name].copy_and_resolve_references()
    experiment.check_fields(own)
    with own.unlocked():
      own.init_from = checkpoint or own.init_from
    if not own.init_from:
      raise UserError(
        f'{task.name} starts from no weights: name them with --checkpoint, a workdir or a file'
      )
    rates = _rates(config, task.name.split('/')[0])
    plans.append(_Plan(task, own, rates, config.seeds, config.keep_sweep, folder))
  return plans


def _rates(config: ConfigDict, suite: str) -> tuple[float, ...]:
  text = config.learning_rates.get(suite, '')
  try:
    rates = tuple(dict.fromkeys(float(rate) for rate in text.split(',')))
  except ValueError:
    rates = ()
  if not rates or not all(math.isfinite(rate) and rate > 0 for rate in rates):
    raise UserError(f'config.learning_rates.{suite}={text}: positive numbers, as in 0.003,0.01')
  return rates


def _check(plans: Sequence[_Plan]) -> None:
  """Whether all can be trained; writes nothing.

  Raises:
    UserError: data sets that are not prepared, all at once; or what is wrong with the first run.
  """
  processes.together(lambda: _check_prepared(plans))
  size = 0
  for plan in plans:
    processes.together(lambda plan=plan: _check_stored(plan))
    # The others differ in what needs no check; each reads the weights, which may take seconds.
    first = next(iter(plan.sweep().values()))
    model = study.check([first])[0].model
    size += plan.seeds * 8 * models.num_params(model)  # parameters and momentum, 4 bytes each
  log.info(
    'tasks: %d; runs to choose learning rates: %d; to report: %d, whose states take %.2g GB',
    len(plans),
    sum(len(plan.rates) for plan in plans),
    sum(plan.seeds for plan in plans),
    size / 1e9,
  )


def _check_prepared(plans: Sequence[_Plan]) -> None:
  missing: dict[str, NotPreparedError] = {}
  for plan in plans:
    place = plan.config.data.data_dir
    check_place(place)
    try:
      prepared_builder(plan.task.data_set, place)
    except NotPreparedError as error:
      missing.setdefault(error.command, error)
  if len(missing) > 1:
    commands = '; '.join(missing)
    raise UserError(f'{len(missing)} data sets are not prepared, run this first: {commands}')
  for error in missing.values():
    raise error


def _check_stored(plan: _Plan) -> None:
  """Whether the folders are these runs', and what is to be reported is there."""
  for run in plan.runs():
    study.stored(run)
  for part in plan.task.reporting:
    open_source(plan.task.name, part, plan.config.data.data_dir)


def _origin(start: str) -> tuple[str, str | None]:
  """(variant, what it was pre-trained on) of the checkpoint; '' and None where it is gone."""
  try:
    checkpoint = checkpoints.read(start)
  except UserError:  # which is no matter where all runs are done
    return '', None
  return models.variant_of(checkpoint.config), checkpoint_labels.pretrained_on(checkpoint)


@contextlib.contextmanager
def _held(folder: epath.Path) -> Iterator[None]:
  """Keeps a second command out of the folder, where it is on this machine."""
  if not experiment.tells():
    yield
    return
  folder.mkdir(parents=True, exist_ok=True)
  with workdir.held(folder):
    yield


def _attempted(plan: _Plan) -> dict[str, Any]:
  """What `transfer.json` holds of a task; `failed` where it came to no end."""
  told = {
    'group': plan.task.group,
    'image_size': plan.config.model.image_size,
    'steps': plan.config.total_steps,
    'chosen_on': plan.task.tuning,
    'reported_on': plan.task.reporting,
  }
  try:
    told |= _transferred(plan)
    log.info('%s: top-1 %s %%', plan.task.name, with_deviation(told))
    return told
  except (PreemptedError, StorageError, ApartError):  # which the other tasks would meet as well
    raise
  except Exception as error:
    if not processes.is_alone():
      raise
    is_ours = not isinstance(error, UserError)
    log.error('%s failed: %s', plan.task.name, error, exc_info=is_ours)
    return told | {'failed': ' '.join(str(error).split()) or type(error).__name__}


def _transferred(plan: _Plan) -> dict[str, Any]:
  scores, diverged = {}, {}
  for rate, run in plan.sweep().items():
    reason = _trained(run, 'choosing')
    if reason:
      diverged[str(rate)] = {'diverged': reason}
    else:
      scores[rate] = _score(run)
  if not scores:
    raise UserError('it diverged at every learning rate: try lower ones, config.learning_rates')
  best = transfer_scores.best_rate(scores)
  processes.check_same({f'the learning rate chosen for {plan.task.name}': str(best)})
  if experiment.tells() and not plan.keep_sweep:
    for run in plan.sweep().values():
      store.remove_states(run.folder)
  top1 = []
  for run in plan.reported(best):
    reason = _trained(run, 'reporting')
    if reason:
      raise UserError(f'{run.name} diverged ({reason}); remove {run.folder} to try it again')
    top1.append(_score(run).top1)
  return {
    'rates': {str(rate): vars(score) for rate, score in scores.items()} | diverged,
    'rate': best,
    'top1': top1,
    **vars(Mean.of(top1)),
  }


def _trained(run: study.Run, what: str) -> str | None:
  """Trains the run unless it came to its end; why it came to none: it diverged, now or before."""
  for row in read_metrics(run.folder):
    if row.get('event') == 'diverged':
      return row['reason']
  try:
    study.train_one(run, what)
  except NotFiniteError as error:
    log.warning('%s diverged: %s', run.name, error)
    if experiment.tells():
      MetricsFile(run.folder).write({'event': 'diverged', 'reason': str(error)})
    return str(error)
  return None


def _score(run: study.Run) -> Score:
  last = run.config.total_steps
  return Score(*(study.curve(run.folder, metric)[last] for metric in ('top1', 'loss')))
