"""Evaluation of a checkpoint on a complete split: accuracy, few-shot accuracy, linear probes."""

import dataclasses
import logging
import os
from typing import Any

from mixer_jax import models
from mixer_jax.checkpoints import Checkpoint
from mixer_jax.data import recipes
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.evaluation import classify, fewshot, probe
from mixer_jax.evaluation.fewshot import FewShotConfig
from mixer_jax.evaluation.probe import LayerProbe, ProbeConfig
from mixer_jax.evaluation.statistics import MeanDeviation
from mixer_jax.parallel import processes
from mixer_jax.pictures.text_tables import comma_separated
from mixer_jax.runlog.progress import reading
from mixer_jax.runs.checkpoint_labels import (
  align_classes,
  check_head,
  class_names,
  known_recipe,
  readable_names,
)
from mixer_jax.runs.data_splits import open_train, with_classes_of
from mixer_jax.runs.evaluation_setup import EvaluationSetup, this_process
from mixer_jax.runs.loaded_model import LoadedModel, loaded_model
from mixer_jax.runs.trained_images import check_apart, warn_if_run_trained_on

log = logging.getLogger(__name__)

_TITLES = {'top1': 'top-1', 'real': 'ReaL'}
_IMAGENET = ('imagenet2012/validation', 'imagenet2012_real/validation')


@dataclasses.dataclass(frozen=True)
class EvaluationReport:
  """Accuracy of a checkpoint on a split.

  Attributes:
    checkpoint: path or published name.
    file: the file that was read.
    variant: name of the model, such as 'B/16'.
    step: of the run, if it is a training state.
    data: data set and split.
    recipe: preparation of the images, in words.
    eval_recipe, eval_crop_fraction: its name and parameter.
    own_recipe: (recipe, crop fraction) that belongs to the checkpoint, if known.
    gelu: None for a model without one.
    activation: nonlinearity in words.
    result: the figures, and the prediction of each image.
    published: figures of the same checkpoint and data in the literature, by the name in `result`.
    classes: class names by label, for people.
  """

  checkpoint: str
  file: str
  variant: str
  step: int | None
  data: str
  image_size: int
  recipe: str
  eval_recipe: str
  eval_crop_fraction: float
  own_recipe: tuple[str, float] | None
  gelu: str | None
  input_range: str
  dtype: str
  activation: str
  result: classify.Evaluation
  published: dict[str, float]
  classes: tuple[str, ...]

  def to_json(self) -> dict[str, Any]:
    """Return the figures and what they hold for, as a JSON file has them."""
    names = (
      *('checkpoint', 'file', 'variant', 'step', 'data', 'image_size', 'recipe', 'eval_recipe'),
      *('eval_crop_fraction', 'gelu', 'input_range', 'dtype'),
    )
    fields = {name: getattr(self, name) for name in names}
    return {**fields, **self.result.numbers(), 'published': self.published}

  def summary(self) -> str:
    """Return the figures as lines of text, each published figure compared with the measured one."""
    result = self.result
    line = f'top-1 {result.top1:.2f} %  top-5 {result.top5:.2f} %  loss {result.loss:.4f}  '
    if result.real is not None:
      line += f'ReaL {result.real:.2f} % of {result.real_examples}  '
    line += f'{result.examples} images of {self.data} at {self.image_size} px'
    line += f'  {result.images_per_second:,.1f} images/s'
    line += f', {result.undecodable} did not decode' if result.undecodable else ''
    arithmetic = ', '.join(filter(None, (self.activation, self.dtype)))
    state = self.checkpoint + ('' if self.step is None else f', step {self.step}')
    lines = [line, f'by {self.recipe}; {arithmetic}; {state}']
    for name, value in self.published.items():
      line = f'published {_TITLES[name]} {value:.2f} %: {getattr(result, name) - value:+.2f} here'
      if self.own_recipe and self.own_recipe != (self.eval_recipe, self.eval_crop_fraction):
        own, fraction = self.own_recipe
        line += f', by another recipe than its {own} with crop {fraction}'
      lines.append(line)
    return '\n'.join(lines)

  def per_class(self) -> list[classify.ClassRow]:
    """Return a row for each class that has images, the worst first."""
    return classify.per_class(self.result)

  def per_class_csv(self) -> str:
    """Return `per_class` as CSV, with class names."""
    rows = []
    for row in self.per_class():
      confused = '' if row.confused is None else self.classes[row.confused]
      name, top1 = self.classes[row.label], f'{row.top1:.2f}'
      rows.append((row.label, name, row.images, top1, confused, row.times))
    header = ('class', 'name', 'images', 'top1', 'most_confused_with', 'times')
    return comma_separated(header, rows)


def evaluate(loaded: LoadedModel | str | os.PathLike) -> EvaluationReport:
  """Classify the evaluation split, every image once. All processes call it alike.

  Args:
    loaded: a loaded model, or a checkpoint that `load_for_evaluation` reads.

  Raises:
    UserError: the classes of the data are not those of the model, or no image decodes.
  """
  loaded = loaded_model(loaded)
  checkpoint, model = loaded.checkpoint, loaded.model
  check_head(checkpoint)
  source = align_classes(checkpoint, loaded.setup.source)
  warn_if_run_trained_on(checkpoint, source, loaded.setup.data.data_dir)
  setup = dataclasses.replace(loaded.setup, source=source)
  data = setup.data
  recipe = recipes.describe(
    data.eval_recipe, model.image_size, data.eval_crop_fraction, model.input_range
  )
  size, variant, activation = len(source), models.variant_of(model), models.activation(model)
  log.info('%s (%s) on %s images of %s', loaded.path, variant, f'{size:,}', source.name)
  log.info('%s; %s', recipe, ', '.join(filter(None, (activation, model.dtype))))
  result = classify.evaluate(
    classify.make_eval_step(model, setup.mesh, loss=loaded.loss),
    loaded.place_params(),
    reading(setup.batches(model.image_size), setup.batch_size, size),
    setup.mesh,
    size=size,
  )
  if not result.examples:
    raise UserError(f'none of the {size:,} images of {source.name} decodes')
  return EvaluationReport(
    checkpoint=loaded.path,
    file=checkpoint.file,
    variant=variant,
    step=checkpoint.metadata.get('step'),
    data=source.name,
    image_size=model.image_size,
    recipe=recipe,
    eval_recipe=data.eval_recipe,
    eval_crop_fraction=data.eval_crop_fraction,
    own_recipe=known_recipe(checkpoint),
    gelu=getattr(model, 'gelu', None),
    input_range=model.input_range,
    dtype=model.dtype,
    activation=activation,
    result=result,
    published=published_figures(checkpoint, source, model.image_size),
    classes=readable_names(source.classes),
  )


def published_figures(checkpoint: Checkpoint, source: Source, image_size: int) -> dict[str, float]:
  """Return the published accuracies that a measurement on `source` can be compared with."""
  entry = checkpoint.published
  is_validation_set = source.name in _IMAGENET or (
    # The validation set as a folder: nothing else has as many images of these classes.
    len(source) == 50_000 and source.classes == class_names(checkpoint)
  )
  if entry is None or not is_validation_set or image_size != entry.config.image_size:
    return {}
  real = entry.real if source.accepted else None
  return {k: v for k, v in {'top1': entry.top1, 'real': real}.items() if v is not None}


@dataclasses.dataclass(frozen=True)
class FewShotReport:
  """Few-shot accuracy of a checkpoint.

  Attributes:
    data, train_data: splits that it was tested on and learned from.
    images: size of the test split.
    accuracies: images per class -> percent, mean and deviation over seeds.
    seeds: number of choices of the images.
    eval_recipe: name of the recipe by which images were read.
  """

  checkpoint: str
  data: str
  train_data: str
  images: int
  accuracies: dict[int, MeanDeviation]
  seeds: int
  eval_recipe: str

  def to_json(self) -> dict[str, Any]:
    """Return the figures as a JSON file has them."""
    names = ('checkpoint', 'data', 'train_data', 'eval_recipe')
    return {name: getattr(self, name) for name in names} | fewshot.named(self.accuracies)

  def summary(self) -> str:
    """Return the figures as lines of text."""
    lines = []
    for shots, (mean, deviation) in self.accuracies.items():
      line = f'{shots:3d} images per class: {mean:.2f} %'
      if deviation is not None:
        line += f' ± {deviation:.2f} over {self.seeds} choices'
      lines.append(line)
    return '\n'.join([*lines, f'{_learned(self)}, by {self.eval_recipe}'])


def few_shot(
  loaded: LoadedModel | str | os.PathLike,
  settings: FewShotConfig = fewshot.PAPER,
  recipe: str | None = None,
) -> FewShotReport:
  """Fit ridge regression to features of a few training images per class, and test it.

  All processes call it alike. The few images of ImageNet are from `fewshot.authors_split`, unless
  the config names another part than `train` or its 99 %.

  Args:
    recipe: name of the evaluation recipe; None: that of `config.fewshot`.

  Raises:
    UserError: the splits have different classes, or a class has too few images.
  """
  loaded = loaded_model(loaded)
  setup = loaded.setup
  data = setup.data if recipe else loaded.config.fewshot.read_as(setup.data)
  if data.name == 'imagenet2012' and data.train_split in ('train', 'train[:99%]'):
    data = dataclasses.replace(data, train_split=fewshot.authors_split(data.name))
  setup = dataclasses.replace(setup, data=data)
  train, test = processes.together(lambda: _opened(setup))
  evaluator = fewshot.FewShot(
    loaded.model,
    settings,
    train,
    test,
    setup.data,
    setup.mesh,
    batch_size=setup.batch_size,
    process=this_process(setup.mesh),
    progress=reading,
  )
  return FewShotReport(
    checkpoint=loaded.path,
    data=test.name,
    train_data=train.name,
    images=len(test),
    accuracies=evaluator.by_shots(loaded.place_params()),
    seeds=settings.seeds,
    eval_recipe=data.eval_recipe,
  )


@dataclasses.dataclass(frozen=True)
class ProbeReport:
  """Accuracy of linear probes on the layers of a checkpoint; see `FewShotReport`."""

  checkpoint: str
  data: str
  train_data: str
  images: int
  layers: list[LayerProbe]

  def to_json(self) -> dict[str, Any]:
    """Return the figures as a JSON file has them."""
    layers = [dataclasses.asdict(layer) for layer in self.layers]
    return {'checkpoint': self.checkpoint, 'data': self.data, 'layers': layers}

  def summary(self) -> str:
    """Return the figures as lines of text."""
    lines = [
      f'{layer.layer:12} top-1 {layer.top1:6.2f} %  of training images {layer.train_top1:6.2f} %'
      for layer in self.layers
    ]
    return '\n'.join([*lines, _learned(self)])


def linear_probe(
  loaded: LoadedModel | str | os.PathLike, settings: ProbeConfig = probe.DEFAULTS
) -> ProbeReport:
  """Fit a linear classifier to each block's features of the training split, and test them.

  All processes call it alike.

  Raises:
    UserError: the splits have different classes, layers differ in width, or no image decodes.
  """
  loaded = loaded_model(loaded)
  setup = loaded.setup
  train, test = processes.together(lambda: _opened(setup))
  layers = probe.linear_probe(
    loaded.model,
    settings,
    loaded.place_params(),
    train,
    test,
    setup.data,
    setup.mesh,
    batch_size=setup.batch_size,
    process=this_process(setup.mesh),
    progress=reading,
  )
  return ProbeReport(loaded.path, test.name, train.name, len(test), layers)


def _opened(setup: EvaluationSetup) -> tuple[Source, Source]:
  """Return the images that a classifier learns from and those that it is tested on."""
  train = open_train(setup.data)
  check_apart(setup.source, train)
  return train, with_classes_of(train, setup.source)


def _learned(report: FewShotReport | ProbeReport) -> str:
  return f'of {report.images} images of {report.data}, learned from {report.train_data}'
