"""What happens around the steps of a run: it is told, evaluated and saved."""

import json
import logging
import os
import time

import jax

from mixer_jax.checkpoints.store import Store
from mixer_jax.commands.experiment import Experiment, this_process
from mixer_jax.data import pipeline
from mixer_jax.evaluation import classify
from mixer_jax.parallel import processes
from mixer_jax.parallel.processes import Preemption
from mixer_jax.reporting.progress import Progress
from mixer_jax.training.step import TrainState

log = logging.getLogger(__name__)


class Hooks:
  """`training.loop.Hooks` of an experiment; keeps the last evaluation.

  `skipped` are names of training images that did not decode; more come while it trains.
  """

  def __init__(
    self,
    experiment: Experiment,
    store: Store,
    progress: Progress,
    preemption: Preemption,
    folder: str,
    skipped: set[str],
  ):
    self._experiment, self._store, self._progress = experiment, store, progress
    self._preemption = preemption
    self._metadata = experiment.metadata()
    self._eval_step = classify.make_eval_step(experiment.model, experiment.evaluated.mesh)
    self._log_every = experiment.config.log_every
    self._tensorboard = _tensorboard(folder) if experiment.config.tensorboard else None
    self._interrupted = False
    self._skipped, self._told = skipped, set[str]()
    self.evaluation: classify.Evaluation | None = None

  def step(self, step: int, metrics: dict[str, float]) -> None:
    """Tells of a step."""
    self._progress.step(step, metrics)
    if self._interrupted:
      raise KeyboardInterrupt
    if self._tensorboard and step % self._log_every == 0:
      self._tensorboard.write_scalars(step, metrics)

  def evaluate(self, step: int, state: TrainState) -> None:
    """Classifies the whole evaluation split."""
    on = self._experiment.evaluated
    batches = pipeline.eval_batches(
      on.source,
      on.data,
      image_size=self._experiment.model.image_size,
      batch_size=on.batch_size,
      process=this_process(),
    )
    result = classify.evaluate(self._eval_step, state.params, batches, on.mesh, size=len(on.source))
    self.evaluation = result
    log.info(
      'step %d: top-1 %.2f %% of %d images of %s, loss %.4f',
      step,
      result.top1,
      result.examples,
      on.source.name,
      result.loss,
    )
    self._progress.event('eval', step=step, **result.numbers())
    if self._tensorboard:
      scalars = {f'eval/{name}': value for name, value in result.numbers().items()}
      self._tensorboard.write_scalars(step, scalars)
    self._progress.pause()

  def told_to_leave(self, step: int) -> bool:
    """Whether a SIGTERM came; agreed on by all processes."""
    leaves = self._preemption.reached(step)
    if leaves:
      self._progress.event('preempted', step=step)
    return leaves

  def save(self, step: int, state: TrainState) -> None:
    """Begins to save the state; tells how long the run stood still for it."""
    begun = time.monotonic()
    parts = {'params': state.params, 'optimizer': state.opt_state}
    self._store.save(step, parts, self._metadata)
    self._progress.event('save', step=step, blocked=round(time.monotonic() - begun, 4))
    if self._experiment.evaluated.data.undecodable == 'skip':
      self._tell_skipped(step)
    self._progress.pause()

  def _tell_skipped(self, step: int) -> None:
    """A row with the names of training images that did not decode since the last such row."""
    own = json.dumps(sorted(self._skipped - self._told))
    names = sorted({name for text in processes.gathered(own) for name in json.loads(text)})
    self._told |= set(names)
    if names:
      self._progress.event('undecodable', step=step, images=len(names), names=names)

  def interrupt(self, *_) -> None:
    """Handles SIGINT: the run ends behind the step under way, at the second call at once.

    An exception raised here could be swallowed by a callback of a library.
    """
    if self._interrupted:
      os._exit(130)
    self._interrupted = True

  def close(self) -> None:
    """Writes what is held back."""
    self._progress.flush()
    if self._tensorboard:
      self._tensorboard.flush()


def _tensorboard(folder: str):
  if jax.process_index():
    return None
  # TensorFlow writes files here and computes nothing: so it has nothing to announce.
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  from clu.metric_writers import SummaryWriter  # imports TensorFlow

  return SummaryWriter(os.path.join(folder, 'tensorboard'))
