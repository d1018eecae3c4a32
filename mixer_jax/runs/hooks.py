"""What happens around the steps of an experiment's run: it is told, evaluated and saved."""

import dataclasses
import json
import logging
import math
import os

from mixer_jax.checkpoints.store import Store
from mixer_jax.data import pipeline
from mixer_jax.evaluation import classify
from mixer_jax.parallel import processes
from mixer_jax.parallel.processes import Preemption
from mixer_jax.runlog.progress import Progress
from mixer_jax.runlog.startup import Startup
from mixer_jax.runs.base_hooks import Watch
from mixer_jax.runs.experiment import Evaluated, Experiment, this_process
from mixer_jax.training.early_stopping import Standing
from mixer_jax.training.loop import Verdict
from mixer_jax.training.step import TrainState

log = logging.getLogger(__name__)


class Hooks(Watch):
  """`training.loop.Hooks` of an experiment.

  Attributes:
    standing: what the evaluations of the run, of all its starts, have come to.

  Args:
    skipped: names of training images that did not decode; more come while it trains.
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
    self._eval_step = classify.make_eval_step(experiment.model, experiment.evaluated.mesh)
    self._last: tuple[int, classify.Evaluation] | None = None
    self.standing = standing
    self._skipped, self._told = skipped, set[str]()

  def evaluate(self, step: int, state: TrainState) -> Verdict:
    """Classifies the whole evaluation split, few-shot where it is due; is it the best?"""
    exp = self._experiment
    result = self._classify('eval', exp.evaluated, step, state.weights)
    self._last = step, result
    numbers = result.numbers()
    if exp.few_shot and exp.few_shot.is_due(step, exp.config.eval_every):
      numbers |= self._few_shot(step, state.weights)
    return self._judge(step, numbers)

  def report(self, step: int, params: dict) -> classify.Evaluation:
    """What the run is told by in the end: the state of this step, on the test split if there is.

    What its evaluation has told already is not done again.
    """
    exp = self._experiment
    if exp.few_shot and not exp.few_shot.is_due(step, exp.config.eval_every):
      self._few_shot(step, params)
    if exp.tested:
      return self._classify('test', exp.tested, step, params)
    if self._last and self._last[0] == step:
      return self._last[1]
    return self._classify('eval', exp.evaluated, step, params)

  def _classify(self, event: str, on: Evaluated, step: int, params: dict) -> classify.Evaluation:
    batches = pipeline.eval_batches(
      on.source,
      on.data,
      image_size=self._experiment.model.image_size,
      batch_size=on.batch_size,
      process=this_process(),
    )
    result = classify.evaluate(self._eval_step, params, batches, on.mesh, size=len(on.source))
    log.info(
      'step %d: top-1 %.2f %% of %d images of %s, loss %.4f',
      step,
      result.top1,
      result.examples,
      on.source.name,
      result.loss,
    )
    self._tell(event, step, result.numbers())
    return result

  def _few_shot(self, step: int, params: dict) -> dict[str, float]:
    watch = self._experiment.few_shot
    assert watch is not None
    numbers = watch.evaluate(params)
    told = ', '.join(f'{shots}-shot {numbers[f"{shots}-shot"]:.2f} %' for shots in watch.shots)
    log.info('step %d: %s of %s', step, told, watch.data)
    self._tell('fewshot', step, numbers, data=watch.data)
    return numbers

  def _tell(self, event: str, step: int, numbers: dict[str, float], **more: str) -> None:
    self._progress.event(event, step=step, **more, **numbers)
    if self._tensorboard:
      self._tensorboard.write_scalars(step, {f'{event}/{k}': v for k, v in numbers.items()})
    self._progress.pause()

  def _judge(self, step: int, numbers: dict[str, float]) -> Verdict:
    stopping = self._experiment.early_stopping
    if stopping.metric in numbers:
      numbers[stopping.metric] = processes.agreed(numbers[stopping.metric])
    now = self.standing = self.standing.behind(stopping, step, numbers)
    stop = now.is_over(stopping) and step < self._experiment.total_steps
    if stop:
      log.info(
        'early stopping: %d evaluations are no better than %s %.4g of step %d',
        now.stale,
        stopping.metric,
        math.nan if now.best is None else now.best,
        now.best_step,
      )
      told = {'metric': stopping.metric, 'best_step': now.best_step, 'best': now.best}
      self._progress.event('early_stop', step=step, **told)
    is_best = now.best_step == step and self._experiment.keeps_best
    return Verdict(save=is_best, stop=stop)

  def save(self, step: int, state: TrainState) -> None:
    """Begins to save the state, with what is needed to use it alone."""
    metadata = {**self._metadata, 'standing': dataclasses.asdict(self.standing)}
    best = self.standing.best_step if self._experiment.keeps_best else 0
    self.save_state(step, state, metadata, best=best or None)
    if self._experiment.evaluated.data.undecodable == 'skip':
      self._tell_skipped(step)

  def _tell_skipped(self, step: int) -> None:
    """A row with the names of training images that did not decode since the last such row."""
    own = json.dumps(sorted(self._skipped - self._told))
    names = sorted({name for text in processes.gathered(own) for name in json.loads(text)})
    self._told |= set(names)
    if names:
      self._progress.event('undecodable', step=step, images=len(names), names=names)
