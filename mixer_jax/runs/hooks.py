"""Hooks of an experiment's training loop: evaluations, early stopping, saves."""

import dataclasses
import json
import logging
import math
import os
from typing import Any

from mixer_jax.checkpoints.store import Store
from mixer_jax.errors import PreemptedError
from mixer_jax.evaluation.classify import Evaluation
from mixer_jax.parallel import processes
from mixer_jax.parallel.preemption import Preemption
from mixer_jax.runlog.progress import Progress
from mixer_jax.runlog.startup import Startup
from mixer_jax.runs.base_hooks import BaseHooks
from mixer_jax.runs.evaluators.classification import Classification
from mixer_jax.runs.evaluators.evaluator import Evaluator
from mixer_jax.runs.experiment import Experiment
from mixer_jax.runs.input_warning import InputWarning
from mixer_jax.training.early_stopping import Standing
from mixer_jax.training.loop import Verdict
from mixer_jax.training.step import TrainState

log = logging.getLogger(__name__)


class RunHooks(BaseHooks):
  """`training.loop.Hooks` of an experiment.

  Attributes:
    standing: the best evaluation so far, over all starts of the run.
    rows: the evaluations of this start, as `metrics.jsonl` holds them.

  Args:
    saved_step: step of the state that was restored; 0: none was.
    skipped: names of training images that did not decode; grows during training.
  """

  def __init__(
    self,
    experiment: Experiment,
    store: Store,
    progress: Progress,
    preemption: Preemption,
    folder: str,
    startup: Startup,
    standing: Standing,
    saved_step: int,
    skipped: set[str],
  ):
    super().__init__(
      store,
      progress,
      preemption,
      log_every=experiment.config.log_every,
      tensorboard=os.path.join(folder, 'tensorboard') if experiment.config.tensorboard else None,
      startup=startup,
    )
    self._experiment = experiment
    self._metadata = experiment.metadata()
    self.standing, self._saved_step = standing, saved_step
    self.rows: list[dict[str, Any]] = []
    self._skipped, self._logged_skipped = skipped, set[str]()
    self._input_warning = InputWarning(experiment.evaluated.data)

  def logged(self, row: dict[str, Any], metrics: dict[str, float]) -> None:
    """Warns if the devices wait for their input."""
    super().logged(row, metrics)
    self._input_warning.check(row)

  def evaluate(self, step: int, state: TrainState) -> Verdict:
    """Makes the evaluations that are due; saves a new best state, may stop the run."""
    exp = self._experiment
    numbers = {}
    for evaluator in exp.evaluators:
      if evaluator.is_due(step, exp.config.eval_every):
        numbers |= self._evaluate(evaluator, step, state.weights)
    return self._judge(step, numbers)

  def report(self, step: int, params: dict) -> Evaluation:
    """Final evaluation of this step: on the test split if there is one, else on the evaluation
    split. A result that was already computed is reused.
    """
    exp = self._experiment
    classification, *others = exp.evaluators
    for evaluator in others:
      if not evaluator.is_due(step, exp.config.eval_every):
        self._evaluate(evaluator, step, params)
    final = exp.test or classification
    assert isinstance(final, Classification)
    if final.last is None or final.last[0] != step:
      self._evaluate(final, step, params)
    assert final.last is not None
    return final.last[1]

  def _evaluate(self, evaluator: Evaluator, step: int, params: dict) -> dict[str, float]:
    """Logs an evaluation; returns its figures under the names that they have among all."""
    try:
      numbers = evaluator(step, params)
    except PreemptedError:
      self._progress.event('preempted', step=step)
      raise
    log.info('step %d: %s', step, evaluator.summary(numbers))
    row = {'step': step, **evaluator.labels(), **numbers}
    self._progress.event(evaluator.row.event, **row)
    self.rows.append({'event': evaluator.row.event, **row})
    if self._tensorboard:
      group = evaluator.row.name if evaluator.row.is_extra else evaluator.row.event
      self._tensorboard.scalars(step, {f'{group}/{k}': v for k, v in numbers.items()})
    self._progress.pause()
    return {evaluator.qualified(name): value for name, value in numbers.items()}

  def _judge(self, step: int, numbers: dict[str, float]) -> Verdict:
    config = self._experiment.config
    stopping = config.early_stopping
    if stopping.metric in numbers:
      numbers[stopping.metric] = processes.agreed(numbers[stopping.metric])
    now = self.standing = self.standing.after(stopping, step, numbers)
    stop = now.is_over(stopping) and step < self._experiment.total_steps
    if stop:
      log.info(
        'early stopping: no improvement on %s %.4g of step %d; evaluations since then: %d',
        stopping.metric,
        math.nan if now.best is None else now.best,
        now.best_step,
        now.stale,
      )
      best = {'metric': stopping.metric, 'best_step': now.best_step, 'best': now.best}
      self._progress.event('early_stop', step=step, **best)
    is_best = now.best_step == step and config.keeps_best
    return Verdict(save=is_best, stop=stop)

  def save(self, step: int, state: TrainState) -> None:
    """Starts to save the state, with the metadata that it needs to be used alone.

    Of a state that is saved already, the metadata is written.
    """
    metadata = {**self._metadata, 'standing': dataclasses.asdict(self.standing)}
    best = (self.standing.best_step if self._experiment.config.keeps_best else 0) or None
    if self._saved_step == step:
      self._store.amend(step, metadata, best=best)
      return
    self.save_state(step, state, metadata, best=best)
    self._saved_step = step
    if self._experiment.evaluated.data.undecodable == 'skip':
      self._log_skipped(step)

  def _log_skipped(self, step: int) -> None:
    """Writes a row with the training images that did not decode since the last such row."""
    own = json.dumps(sorted(self._skipped - self._logged_skipped))
    names = sorted({name for text in processes.gathered(own) for name in json.loads(text)})
    self._logged_skipped |= set(names)
    if names:
      self._progress.event('undecodable', step=step, images=len(names), names=names)
