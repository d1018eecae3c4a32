"""Classes and features of image files."""

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jax.sharding import Mesh

from mixer_jax import checkpoints, models
from mixer_jax.checkpoints import Checkpoint
from mixer_jax.data import image_files, recipes
from mixer_jax.data.batch import FILLER, Batch
from mixer_jax.data.data_config import DataConfig, evaluation_only
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError, printable
from mixer_jax.evaluation import classify
from mixer_jax.evaluation.features import gather, make_feature_step
from mixer_jax.evaluation.pipelined import pipelined
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.runs.checkpoint_labels import (
  CROP_FRACTION,
  check_head,
  evaluation_recipe,
  output_names,
  permutation_fields,
  trained_loss,
)
from mixer_jax.runs.evaluation_setup import IMAGES_PER_DEVICE, EvaluationSetup
from mixer_jax.runs.loaded_model import LoadedModel

log = logging.getLogger(__name__)

_THREADS = 4

Model = LoadedModel | Checkpoint | str | os.PathLike
"""A model that is loaded, its checkpoint, or what `mixer_jax.load` takes."""


class ClassProbability(NamedTuple):
  """One class of a prediction."""

  label: int
  name: str
  probability: float


@dataclasses.dataclass(frozen=True)
class Prediction:
  """The most probable classes of an image file, the first the most probable.

  Attributes:
    top: None if there is no prediction.
    error: reason of that, 'does not decode' or 'cannot be read'; '' if there is one.
  """

  image: str
  top: tuple[ClassProbability, ...] | None
  error: str = ''

  def to_json(self) -> dict[str, Any]:
    """Return it as a line of JSON has it."""
    if self.top is None:
      return {'image': self.image, 'error': self.error}
    rows = [{'class': c.label, 'name': c.name, 'probability': c.probability} for c in self.top]
    return {'image': self.image, 'top': rows}

  def text(self) -> str:
    """Return the file and a line for each class."""
    lines = [f'  {100 * c.probability:6.2f} %  {printable(c.name)}' for c in self.top or ()]
    return '\n'.join([printable(self.image), *lines])


class Embeddings(NamedTuple):
  """Features of images that decode."""

  names: list[str]
  """Files, or data set, split and position as in 'digits/test#12'."""
  features: np.ndarray
  """(images, C) float32."""


def predict(
  model: Model,
  images: str | os.PathLike | Sequence[str | os.PathLike],
  *,
  top: int = 5,
  labels: str | Sequence[str] | None = None,
  recipe: str | None = None,
  gelu: str | None = None,
  input_range: str | None = None,
  num_heads: int | None = None,
  loss: str | None = None,
) -> Iterator[Prediction]:
  """Predict the classes of image files, in their order. All processes call it alike.

  Args:
    model: what `mixer_jax.load` takes, or a checkpoint that was read.
    images: image files, folders of such, or patterns.
    top: number of classes per image.
    labels: class names, or a text file with one per line, a JSON list, or a TFDS data set; None:
      those of the checkpoint.
    recipe: name of the evaluation recipe; None: that of the checkpoint.
    gelu, input_range, num_heads: see `load_for_evaluation`.
    loss: 'softmax' or 'sigmoid', which decides what a probability is; None: that of its run, or
      'softmax' if the checkpoint does not contain it.

  Raises:
    UserError: no such file, checkpoint or recipe, or labels of another number of classes.
  """
  if type(top) is not int or top < 1:
    raise UserError(f'top must be a whole number, at least 1, is {top!r}')
  files = _find(images)
  checkpoint = _read(model, gelu, input_range, num_heads)
  check_head(checkpoint)
  names = processes.together(lambda: output_names(checkpoint, labels))
  opened = _open(model, checkpoint, recipe)
  loss = loss or (model.loss if isinstance(model, LoadedModel) else trained_loss(checkpoint))
  step = classify.make_top_step(opened.checkpoint.config, opened.mesh, top, loss=loss)
  params = meshes.put_replicated(opened.mesh, opened.checkpoint.params)
  results = pipelined(
    lambda batch: step(params, meshes.put(opened.mesh, batch)), opened.batches(files, may_lack=True)
  )
  return _predictions(results, files, names)


def _predictions(
  results: Iterable[Any], files: Sequence[epath.Path], names: Sequence[str]
) -> Iterator[Prediction]:
  for result in results:
    for row, index in enumerate(result['index']):
      if index == FILLER:
        continue
      image = str(files[index])
      if not result['mask'][row]:
        error = 'cannot be read' if result['unread'][row] else 'does not decode'
        yield Prediction(image, None, error)
        continue
      classes, shares = (result[name][row].tolist() for name in ('class', 'probability'))
      best = (
        ClassProbability(label, names[int(label)], share)
        for label, share in zip(classes, shares, strict=True)
      )
      yield Prediction(image, tuple(best))


def embed(
  model: Model,
  images: Sequence[str | os.PathLike] | None = None,
  *,
  layer: str = 'pre_logits',
  recipe: str | None = None,
  gelu: str | None = None,
  input_range: str | None = None,
  num_heads: int | None = None,
) -> Embeddings:
  """Compute features of images, averaged over the places in an image. All processes call it alike.

  Args:
    model: as for `predict`.
    images: as for `predict`; None: the evaluation split of a `LoadedModel`.
    layer: name in `models.features`.
    recipe, gelu, input_range, num_heads: as for `predict`.

  Returns:
    Names and features of the images that decode; the log has the others.

  Raises:
    UserError: as `predict`; or no such layer, no images, or none that decodes.
  """
  if images is None:
    if not isinstance(model, LoadedModel):
      raise UserError('embed: give images, or a model from load_for_evaluation')
    if recipe or gelu or input_range or num_heads:
      raise UserError('embed: set recipe, gelu, input_range and num_heads in load_for_evaluation')
    source = model.setup.source
    names, batches = [f'{source.name}#{i}' for i in range(len(source))], model.batches()
    opened = _open(model, _read(model, None, None, None), None)
  else:
    files = _find(images)
    opened = _open(model, _read(model, gelu, input_range, num_heads), recipe)
    names, batches = [str(file) for file in files], opened.batches(files)
  step = make_feature_step(opened.checkpoint.config, opened.mesh, [layer])
  params = meshes.put_replicated(opened.mesh, opened.checkpoint.params)
  found = gather(step, params, batches, opened.mesh, size=len(names))
  if not found.mask.any():
    raise UserError(f'embed: none of the {len(names)} images decodes')
  decoded = np.flatnonzero(found.mask)
  return Embeddings([names[i] for i in decoded], found.layers[layer][decoded])


def _find(images: str | os.PathLike | Sequence[str | os.PathLike]) -> list[epath.Path]:
  if isinstance(images, str | os.PathLike):
    images = [images]
  is_list = isinstance(images, Iterable) and not isinstance(images, np.ndarray)
  names = list(images) if is_list else []
  if not names or not all(isinstance(name, str | os.PathLike) for name in names):
    given = ' '.join(f'{images!r:.80}'.split())
    raise UserError(f'images are paths of files, folders or patterns, not {given}')
  files = processes.together(lambda: image_files.find_images([os.fspath(name) for name in names]))
  processes.check_same({'the list of images': ' '.join(map(str, files))})
  return list(files)


@dataclasses.dataclass(frozen=True)
class _Opened:
  """A checkpoint, the devices, and how image files are read for it."""

  checkpoint: Checkpoint
  mesh: Mesh
  data: DataConfig

  def batches(self, files: Sequence[epath.Path], may_lack: bool = False) -> Iterator[Batch]:
    """Return this process's batches of the files, without labels; see `Source.may_lack`."""
    records = image_files.Files(files, [0] * len(files), retry_all=not may_lack)
    setup = EvaluationSetup(
      dataclasses.replace(self.data, threads=min(_THREADS, len(files))),
      self.mesh,
      IMAGES_PER_DEVICE * self.mesh.size,
      Source('image', ('',), records, may_lack=may_lack),
    )
    return setup.batches(self.checkpoint.config.image_size)


def _read(
  model: Model, gelu: str | None, input_range: str | None, num_heads: int | None
) -> Checkpoint:
  """Return the checkpoint, with the arithmetic that is chosen."""
  if isinstance(model, LoadedModel):
    checkpoint = dataclasses.replace(model.checkpoint, config=model.model)
  elif isinstance(model, Checkpoint):
    checkpoint = model
  else:
    checkpoint = processes.together(lambda: checkpoints.read(model, num_heads=num_heads))
  return checkpoints.with_arithmetic(checkpoint, gelu or '', input_range or '')


def _open(model: Model, checkpoint: Checkpoint, recipe: str | None) -> _Opened:
  """Decide on the devices and on how files are read, which the log then has."""
  if isinstance(model, LoadedModel):
    mesh, data = model.setup.mesh, model.setup.data
    known = data.eval_recipe, data.eval_crop_fraction
    fields = dataclasses.asdict(data).items()
    kept = ('permutation', 'max_megapixels')
    own = {name: value for name, value in fields if name.startswith(kept)}
  else:
    mesh, known = meshes.make_mesh(), None
    own = permutation_fields(checkpoint)
  name, fraction = (recipe, CROP_FRACTION) if recipe else known or evaluation_recipe(checkpoint)
  config = checkpoint.config
  words = recipes.describe(name, config.image_size, fraction, config.input_range)
  log.info('%s; %s', words, models.activation(config))
  data = evaluation_only(
    'image', recipe=name, crop_fraction=fraction, threads=_THREADS, prefetch=IMAGES_PER_DEVICE
  )
  return _Opened(checkpoint, mesh, dataclasses.replace(data, **own))
