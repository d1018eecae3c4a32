"""Study of transfer: a checkpoint fine-tuned to many tasks, each at its best learning rate."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mixer_jax import checkpoints, models
from mixer_jax.checkpoints import run_states
from mixer_jax.data.catalog import open_source
from mixer_jax.data.tasks import Task, find_task
from mixer_jax.data.tasks import suite as tasks_of_suite
from mixer_jax.data.tfds_builders import NotPreparedError, check_place, prepared_builder
from mixer_jax.errors import ApartError, PreemptedError, StorageError, UserError, one_line
from mixer_jax.evaluation.statistics import mean_deviation
from mixer_jax.models import paper
from mixer_jax.parallel import processes
from mixer_jax.paths import user_path
from mixer_jax.pictures.text_tables import with_deviation
from mixer_jax.runs import checkpoint_labels
from mixer_jax.runs import workdir as workdirs
from mixer_jax.runs.fields import list_text, parse_numbers
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.runs.train_result import TrainResult
from mixer_jax.studies import study, study_config, transfer_report, transfer_scores
from mixer_jax.studies.study import Planned, Run, StudyReport
from mixer_jax.studies.transfer_scores import Score

log = logging.getLogger(__name__)

_FIELDS = ('keep_sweep', 'learning_rates', 'seeds', 'tasks')


@dataclasses.dataclass(frozen=True)
class TransferConfig:
  """Attributes:
  seeds: runs of each task that are reported.
  learning_rates: suite -> rates that are tried for each of its tasks.
  keep_sweep: keep the states of the runs that chose the rate.
  tasks: name -> experiment.
  """

  seeds: int
  learning_rates: Mapping[str, tuple[float, ...]]
  keep_sweep: bool
  tasks: Mapping[str, RunConfig]

  @classmethod
  def from_fields(cls, fields: Mapping[str, Any]) -> 'TransferConfig':
    """The config of the fields of configs/transfer.py; raises `UserError` for others."""
    groups = ('learning_rates', 'tasks')
    study_config.check_names(fields, _FIELDS, groups, 'configs/transfer.py')
    rates = {suite: _rates(suite, value) for suite, value in fields['learning_rates'].items()}
    return cls(
      seeds=study_config.seeds(fields['seeds']),
      learning_rates=rates,
      keep_sweep=fields['keep_sweep'],
      tasks=study_config.experiments('tasks', fields['tasks']),
    )


def _rates(suite: str, value: Any) -> tuple[float, ...]:
  """Learning rates, each once; () of an empty list, which only a suite that is used must not be."""
  if not value:
    return ()
  try:
    rates = parse_numbers(suite, value, float)
  except UserError:
    rates = ()
  if not rates or not all(math.isfinite(rate) and rate > 0 for rate in rates):
    raise _wrong_rates(suite, value)
  return tuple(dict.fromkeys(rates))


def _wrong_rates(suite: str, value: Any) -> UserError:
  text = list_text(value)
  return UserError(f'config.learning_rates.{suite}={text}: positive numbers, as in 0.003,0.01')


def run(
  config: TransferConfig | Mapping[str, Any],
  workdir: str,
  *,
  suite: str = '',
  tasks: Sequence[str] = (),
  checkpoint: str = '',
) -> StudyReport | None:
  """Tries the learning rates on each task's held-out images, and reports its test images.

  Runs that are in `workdir` already are resumed. Process 0 writes `transfer.json` and
  `transfer.md` there after each task, and returns the report; other processes return None. A task
  that fails does not stop the others, unless there are several processes.

  Args:
    suite: 'vtab' or 'avg5', for all of its tasks.
    tasks: names of tasks, in place of a suite.
    checkpoint: where to start, in place of the `init_from` of the experiments.
  """
  if bool(suite) == bool(tasks):
    raise UserError('name a suite of tasks or some tasks')
  config = study_config.typed(TransferConfig, config)
  chosen = tasks_of_suite(suite) if suite else [find_task(name) for name in dict.fromkeys(tasks)]
  plans = [_plan(config, task, checkpoint, workdir) for task in chosen]
  first = plans[0].config
  flags = {'suite': suite, 'tasks': ','.join(tasks), 'checkpoint': checkpoint}
  study.join('transfer', config, workdir, first.processes, **flags)
  built = _check(plans)
  origin = processes.together(lambda: _origin(first.init_from))
  values = {
    'checkpoint': first.init_from,
    'variant': origin.variant,
    'pretrained_on': origin.pretrained_on,
    'tasks': {},
  }
  report = None
  with _held(workdir):
    for number, plan in enumerate(plans):
      log.info('task %d of %d: %s', number + 1, len(plans), plan.task.name)
      values['tasks'][plan.task.name] = _attempt(plan, built[number])
      if processes.is_main():
        report = study.write(workdir, 'transfer', summarize(values, origin), transfer_report)
  processes.leave_together()
  return report


# --- Runs of a task.


@dataclasses.dataclass(frozen=True)
class TaskPlan:
  """Runs of one task."""

  task: Task
  config: RunConfig
  """The experiment, whose splits, rate and seed differ between the runs."""
  rates: tuple[float, ...]
  seeds: int
  keep_sweep: bool
  workdir: str

  def sweep(self) -> dict[float, Run]:
    """Learning rate -> the run that tries it, scored on the held-out part."""
    seed = self.config.seed
    return {rate: self._run(f'sweep/{rate}', self.task.tuning, rate, seed) for rate in self.rates}

  def reported(self, rate: float) -> list[Run]:
    """Runs at a learning rate that are reported, one for each seed."""
    seeds = range(self.config.seed, self.config.seed + self.seeds)
    return [self._run(f'report/{rate}/{s}', self.task.reporting, rate, s) for s in seeds]

  def runs(self) -> Iterator[Run]:
    """All runs that the choice of the rate may lead to."""
    yield from self.sweep().values()
    for rate in self.rates:
      yield from self.reported(rate)

  def _run(self, place: str, parts: tuple[str, str], rate: float, seed: int) -> Run:
    name = f'{self.task.name} at learning rate {rate}, seed {seed}, scored on {parts[1]}'
    with study.named(name):
      own = self.config.with_fields(
        {
          'data.train_split': parts[0],
          'data.eval_split': parts[1],
          'optimizer.learning_rate': rate,
          'seed': seed,
        }
      )
    return Run(name, own, f'{user_path(self.workdir)}/{self.task.name}/{place}')


def _plan(config: TransferConfig, task: Task, checkpoint: str, workdir: str) -> TaskPlan:
  if task.name not in config.tasks:
    raise UserError(f'config.tasks has no experiment for {task.name}')
  own = config.tasks[task.name]
  if checkpoint:
    own = own.with_fields({'init_from': checkpoint})
  if not own.init_from:
    raise UserError(
      f'{task.name} starts from no weights: name them with --checkpoint, a workdir or a file'
    )
  suite = task.name.split('/')[0]
  rates = config.learning_rates.get(suite)
  if not rates:
    raise _wrong_rates(suite, '')
  return TaskPlan(task, own, rates, config.seeds, config.keep_sweep, workdir)


# --- Checks before anything is trained.


def _check(plans: Sequence[TaskPlan]) -> list[Planned]:
  """Builds the first run of each task; writes nothing. The others differ in what needs no check.

  Raises:
    UserError: data sets that are not prepared, all at once; or the first fault of a run.
  """
  processes.together(lambda: _check_prepared(plans))
  built, size = [], 0
  for plan in plans:
    processes.together(lambda plan=plan: _check_stored(plan))
    built += study.check([next(iter(plan.sweep().values()))])
    # Parameters and momentum, 4 bytes each.
    size += plan.seeds * 8 * models.num_params(built[-1].experiment.model)
  log.info(
    'tasks: %d; runs to choose learning rates: %d; to report: %d, whose states take %.2g GB',
    len(plans),
    sum(len(plan.rates) for plan in plans),
    sum(plan.seeds for plan in plans),
    size / 1e9,
  )
  return built


def _check_prepared(plans: Sequence[TaskPlan]) -> None:
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


def _check_stored(plan: TaskPlan) -> None:
  """Raises `UserError` if a folder holds another run, or the test images are not there."""
  for own in plan.runs():
    study.stored(own)
  for part in plan.task.reporting:
    open_source(plan.task.name, part, plan.config.data.data_dir)


@contextlib.contextmanager
def _held(workdir: str) -> Iterator[None]:
  """Keeps a second command of this machine out of the folder."""
  if not processes.is_main():
    yield
    return
  folder = user_path(workdir)
  folder.mkdir(parents=True, exist_ok=True)
  with workdirs.held(folder):
    yield


# --- Training, and the report.


def _attempt(plan: TaskPlan, built: Planned) -> dict[str, Any]:
  """Content of `transfer.json` for a task; with `failed`, a message, if it failed."""
  values = {
    'group': plan.task.group,
    'image_size': built.experiment.model.image_size,
    'steps': plan.config.total_steps,
    'chosen_on': plan.task.tuning,
    'reported_on': plan.task.reporting,
  }
  try:
    values |= _transfer(plan, built)
    log.info('%s: top-1 %s %%', plan.task.name, with_deviation(values['mean'], values['deviation']))
    return values
  except (PreemptedError, StorageError, ApartError):  # the other tasks would fail as well
    raise
  except Exception as error:
    if not processes.is_alone():
      raise
    is_ours = not isinstance(error, UserError)
    log.error('%s failed: %s', plan.task.name, error, exc_info=is_ours)
    return values | {'failed': one_line(error, limit=1000)}


def _transfer(plan: TaskPlan, built: Planned) -> dict[str, Any]:
  scores: dict[float, Score] = {}
  diverged = {}
  for rate, own in plan.sweep().items():
    result = _train(own, 'choosing', built)
    if isinstance(result, str):
      diverged[str(rate)] = {'diverged': result}
    else:
      scores[rate] = _score(result)
  if not scores:
    raise UserError('it diverged at every learning rate: try lower ones, config.learning_rates')
  best = transfer_scores.best_rate(scores)
  processes.check_same({f'the learning rate chosen for {plan.task.name}': str(best)})
  if processes.is_main() and not plan.keep_sweep:
    for own in plan.sweep().values():
      run_states.remove_states(own.folder)
  top1 = []
  for own in plan.reported(best):
    result = _train(own, 'reporting', built)
    if isinstance(result, str):
      raise UserError(f'{own.name} diverged ({result}); remove {own.folder} to try it again')
    top1.append(_score(result).top1)
  return {
    'rates': {str(rate): vars(score) for rate, score in scores.items()} | diverged,
    'rate': best,
    'top1': top1,
    **mean_deviation(top1)._asdict(),
  }


def _train(own: Run, label: str, built: Planned) -> TrainResult | str:
  """Trains the run unless it ended before; returns the reason if it diverged, now or before."""
  experiment = built.experiment if built.run.folder == own.folder else None
  return study.train_unless_diverged(own, label, experiment)


def _score(result: TrainResult) -> Score:
  return Score(*(result.evaluations[result.step][metric] for metric in ('top1', 'loss')))


@dataclasses.dataclass(frozen=True)
class Origin:
  """Checkpoint that is transferred."""

  variant: str
  pretrained_on: str | None
  published: tuple[paper.Published, ...]
  """Rows of the paper for such a model."""


def _origin(start: str) -> Origin:
  try:
    checkpoint = checkpoints.read(start)
  except StorageError:
    raise
  except UserError:  # not needed if all runs ended before
    return Origin('', None, ())
  return origin_of(checkpoint.config, checkpoint_labels.training_data(checkpoint))


def origin_of(config: models.ModelConfig, pretrained_on: str | None) -> Origin:
  """Describe a checkpoint of this model, with the paper's rows."""
  rows = paper.published(models.base_variant(config), pretrained_on)
  # Rows of both tables differ by the evaluation crop: at 448 px ours is Table 2's.
  unique = {row[:4]: row for row in sorted(rows, key=lambda row: -row.table)}
  return Origin(models.variant_of(config), pretrained_on, tuple(unique.values()))


def summarize(values: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
  """Adds means by group and suite, and the paper's rows, to the results of the tasks."""
  done = {name: task['top1'] for name, task in values['tasks'].items() if 'failed' not in task}
  means = transfer_scores.group_means(done)
  return {
    **values,
    'means': {group: mean._asdict() for group, mean in means.items()},
    'paper': [row._asdict() for row in origin.published],
  }
