"""CKA between the layers of one checkpoint or of two, and layer identification by it."""

import dataclasses
import logging
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mixer_jax import models
from mixer_jax.analysis import cka, identification
from mixer_jax.analysis.hsic import Method, check_images
from mixer_jax.analysis.identification import Identification
from mixer_jax.analysis.layers import choose, layer_names
from mixer_jax.data.batch import Batch
from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes
from mixer_jax.runlog.progress import reading
from mixer_jax.runs.loaded_model import LoadedModel, loaded_model
from mixer_jax.runs.npz import npz_bytes

log = logging.getLogger(__name__)

LAYERS = ('stem', 'block_*', 'pre_logits')
BLOCKS = ('block_*',)


@dataclasses.dataclass(frozen=True)
class LayerSimilarity:
  """CKA of every pair of layers, and what it was measured on.

  Attributes:
    cka: (n_x, n_y)
    standard_error: over batches, (n_x, n_y); NaN after a single batch.
    method: kernel and estimator, in words.
    features: reduction of the features, see `analysis.layers.reduced`.
  """

  names_x: list[str]
  names_y: list[str]
  cka: np.ndarray
  standard_error: np.ndarray
  images: int
  batches: int
  data: str
  checkpoints: tuple[str, str]
  method: str
  features: str

  def title(self) -> str:
    """Return the method, the number of images and the noise, in words."""
    noise = describe_noise(self.standard_error, self.batches)
    return f'CKA ({self.method}) on {self.images:,} images of {self.data}; {noise}'

  def npz(self, **more) -> bytes:
    """Return all fields by their names, and `more` arrays, as the bytes of an .npz file."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    return npz_bytes(**fields, **more)


def compare(
  x: LoadedModel | str | os.PathLike,
  y: LoadedModel | str | os.PathLike | None = None,
  *,
  layers: Sequence[str] = LAYERS,
  method: Method | None = None,
  features: str = 'flatten',
) -> LayerSimilarity:
  """Compute CKA between layers, in one pass over the evaluation split of `x`.

  All processes call it alike.

  Args:
    x: a loaded model, or a checkpoint that `load_for_evaluation` reads.
    y: the second one, on the same images; None: the layers of `x` with each other.
    layers: patterns of layer names, see `analysis.layers.choose`; of two models of different
      families each pattern has to match layers of one.
    method: kernel and estimator; None: linear and unbiased.
    features: 'flatten' or 'tokens', see `analysis.layers.reduced`.

  Raises:
    UserError: no layer matches, too few images in a batch, or features that are not finite.
  """
  x, y = loaded_model(x), None if y is None else loaded_model(y)
  setup, method = x.setup, method or Method()
  check_images(len(setup.source), setup.batch_size)
  names_x, names_y = _layers_of_both(x, y, layers)
  of_x, of_y = (f' of {x.path}', f' of {y.path}') if y else ('', '')
  total = cka.MinibatchCKA(
    len(names_x),
    len(names_y),
    **dataclasses.asdict(method),
    names_x=[name + of_x for name in names_x],
    names_y=[name + of_y for name in names_y],
  )
  step = cka.make_cka_step(
    x.model,
    names_x,
    setup.mesh,
    method,
    config_y=y.model if y else None,
    names_y=names_y if y else None,
    how=features,
  )
  params_x = x.place_params()
  batches_x = reading(_batches(x, x), setup.batch_size, len(setup.source))
  if y is None:
    for batch in batches_x:
      total.add(step(params_x, meshes.put(setup.mesh, batch)))
  else:  # each model gets the images by its own recipe, at its own size
    params_y = meshes.put_replicated(setup.mesh, y.checkpoint.params)
    for pair in cka.paired(batches_x, _batches(y, x)):
      batch_x, batch_y = (meshes.put(setup.mesh, batch) for batch in pair)
      total.add(step(params_x, batch_x, params_y, batch_y))
  return LayerSimilarity(
    names_x=names_x,
    names_y=names_y,
    cka=total.result(),
    standard_error=total.standard_error(),
    images=total.images,
    batches=total.batches,
    data=setup.source.name,
    checkpoints=(x.path, y.path if y else x.path),
    method=str(method),
    features=features,
  )


@dataclasses.dataclass(frozen=True)
class LayerIdentification:
  """Layers of two models, each identified in the other by CKA.

  Attributes:
    forward: of the layers of x, in y.
    backward: of the layers of y, in x.
  """

  similarity: LayerSimilarity
  forward: Identification
  backward: Identification

  def summary(self) -> str:
    """Return the accuracies in words."""
    return (
      f'{self.forward.accuracy:.1f} % of the layers identified, in the other direction '
      f'{self.backward.accuracy:.1f} % (chance {self.forward.chance:.1f} %)'
    )

  def npz(self) -> bytes:
    """Return the similarity and what was identified as the bytes of an .npz file."""
    accuracy = [self.forward.accuracy, self.backward.accuracy]
    return self.similarity.npz(nearest=self.forward.nearest, accuracy=accuracy)

  def to_json(self) -> dict[str, Any]:
    """Return the figures for a JSON file; None where a similarity is not a number."""
    similarity = self.similarity
    return {
      'checkpoints': similarity.checkpoints,
      'data': similarity.data,
      'images': similarity.images,
      'method': similarity.method,
      'features': similarity.features,
      'layers': similarity.names_x,
      'identified': dataclasses.asdict(self.forward),
      'identified_back': dataclasses.asdict(self.backward),
      'cka': [[v if math.isfinite(v) else None for v in row] for row in similarity.cka.tolist()],
    }


def identify(
  x: LoadedModel | str | os.PathLike,
  y: LoadedModel | str | os.PathLike,
  *,
  layers: Sequence[str] = BLOCKS,
  method: Method | None = None,
  features: str = 'flatten',
) -> LayerIdentification:
  """Identify each layer of a model in another by CKA, in both directions; see `compare`.

  Between two models that differ only in their seed, a good measure of similarity finds for each
  layer the one of the same depth (Kornblith et al. 2019).

  Raises:
    UserError: as `compare`; or the models do not have the same layers.
  """
  x, y = loaded_model(x), loaded_model(y)
  names_x, names_y = choose_layers(x, layers), choose_layers(y, layers)
  if names_x != names_y:
    raise UserError(
      f'{x.path} has {len(names_x)} such layers and {y.path} {len(names_y)}, or '
      'others: identification needs the same in both; mixer-jax cka compares any'
    )
  found = compare(x, y, layers=layers, method=method, features=features)
  return LayerIdentification(
    found, identification.identify(found.cka), identification.identify(found.cka.T)
  )


def choose_layers(loaded: LoadedModel, patterns: Sequence[str]) -> list[str]:
  """Return the layers of a model by patterns; raise `UserError` if a pattern matches none."""
  return choose(layer_names(loaded.model), patterns)


def _layers_of_both(
  x: LoadedModel, y: LoadedModel | None, patterns: Sequence[str]
) -> tuple[list[str], list[str]]:
  """Return the layers of each model, those of x twice without y."""
  if y is None:
    return (names := choose_layers(x, patterns)), names
  own_x, own_y = layer_names(x.model), layer_names(y.model)
  matched = choose([*dict.fromkeys([*own_x, *own_y])], patterns)
  # Patterns of which none matches are refused by the names of that model.
  of = lambda names: [name for name in names if name in matched] or choose(names, patterns)
  return of(own_x), of(own_y)


def describe_noise(standard_error: np.ndarray, batches: int) -> str:
  """Return the standard error over batches in words."""
  if not np.isfinite(standard_error).any():
    return 'one batch, so no standard error'
  middle = np.nanmedian(standard_error)
  return f'standard error over {batches} batches {middle:.4f} (median)'


def _batches(loaded: LoadedModel, first: LoadedModel) -> Iterator[Batch]:
  """Return the images of `first`, read as `loaded` takes them."""
  setup = dataclasses.replace(
    loaded.setup, source=first.setup.source, batch_size=first.setup.batch_size
  )
  name = models.variant_of(loaded.model)
  log.info('%s on %d images of %s', name, len(setup.source), setup.source.name)
  return setup.batches(loaded.model.image_size)
