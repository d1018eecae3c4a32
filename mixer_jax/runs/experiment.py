"""A training run whose parts are checked and fit together, ready to be trained."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import optax

from mixer_jax import models
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.models import ModelConfig
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.runs.data_splits import open_split, open_train, with_classes_of
from mixer_jax.runs.evaluation_setup import EvaluationSetup, check_memory, open_evaluation
from mixer_jax.runs.evaluators.classification import Classification
from mixer_jax.runs.evaluators.evaluator import Context, Evaluator, Row
from mixer_jax.runs.evaluators.registry import prepare_all
from mixer_jax.runs.initial_model import InitialWeights, new_model
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.runs.trained_images import warn_if_trained_on
from mixer_jax.training.optimizer import Schedule, make_optimizer, make_schedule

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A training run whose parts fit together.

  Attributes:
    initial_params: returns the params to start with, on the host; the only part that is read
      later. None: random ones.
    source: the training split.
    total_steps: updates of the run.
    evaluated: the evaluation split.
    tested: the images of the final report, if they are not those of `evaluated`.
    evaluators: what an evaluation consists of; the first classifies `evaluated`.
    test: classifies `tested`, if there is one.
  """

  config: RunConfig
  model: ModelConfig
  initial_params: Callable[[], dict] | None
  schedule: Schedule
  optimizer: optax.GradientTransformation
  source: Source
  total_steps: int
  evaluated: EvaluationSetup
  tested: EvaluationSetup | None
  evaluators: tuple[Evaluator, ...]
  test: Classification | None

  @property
  def reported(self) -> EvaluationSetup:
    """The images of the final report."""
    return self.tested or self.evaluated

  def sources(self) -> tuple[Source, ...]:
    """Return the images that it is trained, evaluated and reported on."""
    tested = (self.tested.source,) if self.tested else ()
    return (self.source, self.evaluated.source, *tested)

  def metrics(self) -> dict[str, str]:
    """Return figure -> the images that it is of, for all figures of the final report."""
    return _metrics((self.test, *self.evaluators[1:]) if self.test else self.evaluators)

  def metadata(self) -> dict[str, Any]:
    """Return what a saved state needs to be used without this config."""
    data = self.evaluated.data
    metadata = {
      'model': dataclasses.asdict(self.model),
      'data': data.name,
      'classes': list(self.source.classes),
      'eval_recipe': data.eval_recipe,
      'eval_crop_fraction': data.eval_crop_fraction,
      'config': self.config.to_fields(),
    }
    if self.config.init_blocks:
      metadata['origin'] = {
        'checkpoint': self.config.init_from,
        'blocks': list(self.config.init_blocks),
      }
    return metadata


def build_experiment(config: RunConfig, known_model: dict[str, Any] | None = None) -> Experiment:
  """Return everything a training run needs; writes nothing. All processes call it alike.

  Args:
    known_model: the model's fields, of a run that is resumed. Its `init_from` is then not read,
      unless the run stopped before its first save.

  Raises:
    UserError: something is missing, wrong or does not fit.
  """
  evaluated, tested, source = processes.together(lambda: _open(config))
  opened = {'the training data': source, 'the evaluation data': evaluated.source}
  opened |= {'the test data': tested.source} if tested else {}
  processes.check_same({name: data.describe() for name, data in opened.items()})
  initial_params = InitialWeights(config, source) if config.init_from else None
  if known_model and initial_params:
    model = models.config_from(known_model)
  elif initial_params:
    model = processes.together(initial_params.model)
  else:
    model = new_model(config.model)
  check_classes(model, source, resumed=known_model is not None)
  check_memory('batch_size', config.batch_size, model.image_size, evaluated.mesh)
  check_memory('eval_batch_size', evaluated.images_per_batch, model.image_size, evaluated.mesh)
  evaluated.data.order(model.image_size)  # raises if a permutation's patches do not divide it
  evaluated.data.resized_side(model.image_size)  # raises if it is smaller
  context = Context(model, evaluated, source, config.loss)
  evaluators = processes.together(lambda: prepare_all(config, context))
  _check_early_stopping(config, evaluators)
  test = None
  if tested:
    test = Classification(
      Row('test', 'classification', 1, {}, event='test'), model, tested, context.eval_step
    )
  total_steps = config.steps_for(len(source))
  if config.optimizer.warmup_steps >= total_steps:
    log.warning(
      'all of total_steps %d is warm-up: config.optimizer.warmup_steps is %d',
      total_steps,
      config.optimizer.warmup_steps,
    )
  schedule = make_schedule(config.optimizer, total_steps)
  return Experiment(
    config=config,
    model=model,
    initial_params=initial_params,
    schedule=schedule,
    optimizer=make_optimizer(config.optimizer, schedule),
    source=source,
    total_steps=total_steps,
    evaluated=evaluated,
    tested=tested,
    evaluators=evaluators,
    test=test,
  )


def _open(config: RunConfig) -> tuple[EvaluationSetup, EvaluationSetup | None, Source]:
  """Return the evaluation, test and training images; does not wait for other processes."""
  evaluated = open_evaluation(config)
  meshes.check_batch(evaluated.mesh, config.batch_size, config.accumulate)
  data = evaluated.data
  train = open_train(data)

  def of(source: Source) -> EvaluationSetup:
    warn_if_trained_on(source, train)
    return dataclasses.replace(evaluated, source=with_classes_of(train, source))

  tested = of(open_split(data, data.test_split)) if data.test_split else None
  return of(evaluated.source), tested, train


def check_classes(model: ModelConfig, source: Source, *, resumed: bool = False) -> None:
  """Raises `UserError` unless the head has one output for each class of the data."""
  if model.num_classes != len(source.classes):
    way_out = f'train with --config.model.num_classes={len(source.classes)}'
    if resumed:
      way_out = 'restore the classes that the run began with, or take another --workdir'
    raise UserError(
      f'the model has {model.num_classes} classes and {source.name} {len(source.classes)}: '
      f'{way_out}'
    )


def _metrics(evaluators: tuple[Evaluator, ...]) -> dict[str, str]:
  return {each.qualified(name): each.data for each in evaluators for name in each.metrics()}


def _check_early_stopping(config: RunConfig, evaluators: tuple[Evaluator, ...]) -> None:
  """Raises `UserError` if evaluations lack the metric that decides, or are never made."""
  stopping, known = config.early_stopping, _metrics(evaluators)
  if stopping.metric not in known:
    hint = '' if config.fewshot.every else '; N-shot with --config.fewshot.every=1'
    raise UserError(
      f'config.early_stopping.metric is {stopping.metric!r}, and the evaluations have '
      f'{", ".join(known)}{hint}'
    )
  if stopping.patience and not config.eval_every:
    raise UserError('config.early_stopping.patience counts evaluations: set config.eval_every')
