"""The end of a run: its pictures, and then the row that says that it has ended."""

import logging
from typing import Any

import jax
import numpy as np
from etils import epath

from mixer_jax.data import recipes
from mixer_jax.evaluation.classify import Evaluation
from mixer_jax.parallel import processes
from mixer_jax.paths import write_whole
from mixer_jax.pictures import run_pictures
from mixer_jax.pictures.drawing import tolerated
from mixer_jax.runlog.metrics import (
  device_hours,
  input_wait,
  listed,
  read_metrics,
  undecodable,
)
from mixer_jax.runlog.progress import Progress
from mixer_jax.runlog.terminal import duration
from mixer_jax.runs.experiment import Experiment
from mixer_jax.runs.train_result import TrainResult

log = logging.getLogger(__name__)

PICTURES = ('curves.png', 'predictions.png')


def has_pictures(workdir) -> bool:
  """Return True if no picture of a run is missing."""
  return all((epath.Path(workdir) / name).exists() for name in PICTURES)


def finish(
  exp: Experiment, evaluation: Evaluation, last: int, reported: int, progress: Progress, folder: str
) -> dict[str, Any]:
  """Write the pictures, then the last row of the run's metrics; process 0 does.

  A run that is killed between them makes the pictures again.

  Args:
    evaluation: of the state that the run is reported by.
    last: the last step.
    reported: the step of `evaluation`.

  Returns:
    The row, the same in all processes.
  """
  rows, hours, seconds = [], 0.0, progress.seconds()
  if processes.is_main():
    rows = read_metrics(folder)
    hours = device_hours([*rows, {'seconds': seconds}])
  hours = processes.agreed(hours)
  best = {'best_step': reported} if exp.config.keeps_best else {}
  end = {'step': last, **best, 'device_hours': hours, 'core_days': hours / 24}
  if processes.is_main():
    if (share := input_wait(rows)) is not None:
      log.info('the devices waited for input %.0f %% of the time', 100 * share)
    if names := undecodable(rows):
      log.warning('training images that did not decode and were replaced: %s', listed(names))
    draw_curves = lambda: run_pictures.curves([*rows, {'event': 'end', **end}])
    draw_predictions = lambda: _predictions(exp, evaluation)
    for name, draw in zip(PICTURES, (draw_curves, draw_predictions), strict=True):
      with tolerated(name):
        write_whole(epath.Path(folder) / name, draw())
  progress.event('end', **end, seconds=seconds)
  return end


def _predictions(exp: Experiment, evaluation: Evaluation) -> bytes:
  on = exp.reported
  shown = run_pictures.mistakes_first(
    evaluation.labels, evaluation.predictions, evaluation.confidences, 40
  )
  recipe, fraction = on.data.eval_recipe, on.data.eval_crop_fraction
  draw = lambda i: recipes.eval_image(on.source[i]['image'], exp.model.image_size, recipe, fraction)
  return run_pictures.predictions(
    [np.rint(draw(i)).astype(np.uint8) for i in shown],
    evaluation.labels[shown],
    evaluation.predictions[shown],
    evaluation.confidences[shown],
    on.source.classes,
  )


def log_result(evaluation: Evaluation, result: TrainResult, folder: str) -> None:
  """Log what the run has reached, and where its pictures are."""
  log.info(
    'done: top-1 %.2f %%%s, %s on %d device(s); curves.png and predictions.png are in %s',
    evaluation.top1,
    f' of step {result.best_step}, the best of {result.step}' if result.best_step else '',
    duration(3600 * result.device_hours / jax.device_count()),
    jax.device_count(),
    folder,
  )
