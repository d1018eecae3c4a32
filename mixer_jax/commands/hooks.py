"""What happens around the steps of an experiment's run: it is told, evaluated and saved."""

import logging
import os

from mixer_jax.checkpoints.store import Store
from mixer_jax.commands.experiment import Experiment, this_process
from mixer_jax.commands.watch import Watch
from mixer_jax.data import pipeline
from mixer_jax.evaluation import classify
from mixer_jax.parallel.processes import Preemption
from mixer_jax.reporting.progress import Progress
from mixer_jax.reporting.startup import Startup
from mixer_jax.training.step import TrainState

log = logging.getLogger(__name__)


class Hooks(Watch):
  """`training.loop.Hooks` of an experiment; keeps the last evaluation."""

  def __init__(
    self,
    experiment: Experiment,
    store: Store,
    progress: Progress,
    preemption: Preemption,
    folder: str,
    startup: Startup,
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
    self.evaluation: classify.Evaluation | None = None

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

  def save(self, step: int, state: TrainState) -> None:
    """Begins to save the state, with what is needed to use it alone."""
    self.save_state(step, state, self._metadata)
