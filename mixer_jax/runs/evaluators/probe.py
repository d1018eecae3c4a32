"""Linear probes of layers, see `evaluation.probe`.

In `config.evals`: `layers` (as in 'block_0,pre_logits'; '': all blocks and pre_logits),
`train_split` ('': that of the run, all of which is read), `split` ('': the evaluation split), and
`l2` and `iterations` of `ProbeConfig`.
"""

import dataclasses
import difflib
import functools
from collections.abc import Mapping, Sequence

from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.evaluation import probe
from mixer_jax.evaluation.features import feature_shapes
from mixer_jax.evaluation.probe import ProbeConfig
from mixer_jax.models import ModelConfig
from mixer_jax.runlog.progress import reading
from mixer_jax.runs.data_splits import open_split, with_classes_of
from mixer_jax.runs.evaluation_setup import EvaluationSetup, this_process
from mixer_jax.runs.evaluators.evaluator import Context, Evaluator, Row
from mixer_jax.runs.fields import build, list_text, parse_names
from mixer_jax.runs.trained_images import warn_if_trained_on


@dataclasses.dataclass(frozen=True)
class _Fields:
  layers: str | tuple[str, ...] = ''
  train_split: str = ''
  split: str = ''
  l2: float = 1e-3
  iterations: int = 500


def prepare(row: Row, context: Context) -> 'LinearProbe':
  """Return probes of the layers that the row names."""
  fields, setup = build(_Fields, row.fields, row.group), context.setup
  data = setup.data
  layers = (
    parse_names(f'config.{row.group}.layers', fields.layers)
    if fields.layers
    else tuple(probe.block_layers(context.model))
  )
  known = feature_shapes(context.model)
  for layer in layers:
    if layer not in known:
      near = ', '.join(difflib.get_close_matches(layer, known, n=3, cutoff=0))
      raise UserError(
        f'config.{row.group}.layers: no layer {layer!r} in this model: the nearest are {near}'
      )
  if len(set(layers)) < len(layers):
    raise UserError(f'config.{row.group}.layers names one twice: {list_text(layers)}')
  train = context.train
  if fields.train_split:
    train = open_split(data, fields.train_split)
  test = open_split(data, fields.split) if fields.split else setup.source
  warn_if_trained_on(test, train, context.train)
  setup = dataclasses.replace(setup, source=with_classes_of(train, test))
  settings = ProbeConfig(fields.l2, fields.iterations)
  return LinearProbe(row, context.model, setup, train, layers, settings)


class LinearProbe(Evaluator):
  """Top-1 of a linear classifier on each layer, in percent of the images of a split."""

  def __init__(
    self,
    row: Row,
    model: ModelConfig,
    setup: EvaluationSetup,
    train: Source,
    layers: Sequence[str],
    settings: ProbeConfig,
  ):
    super().__init__(row, setup.source.name)
    self._model, self._setup, self._train = model, setup, train
    self._layers, self._settings = layers, settings

  def metrics(self) -> Sequence[str]:
    """Return the names of the layers."""
    return list(self._layers)

  def __call__(self, step: int, params: dict) -> dict[str, float]:
    """Return layer -> top-1, and layer + '_train' -> top-1 of the images it was fit on."""
    setup = self._setup
    found = probe.linear_probe(
      self._model, self._settings, params, self._train, setup.source, setup.data, setup.mesh,
      batch_size=setup.batch_size, process=this_process(setup.mesh), layers=self._layers,
      progress=functools.partial(reading, keep=False),
    )  # fmt: skip
    numbers = {layer.layer: layer.top1 for layer in found}
    return numbers | {f'{layer.layer}_train': layer.train_top1 for layer in found}

  def summary(self, numbers: Mapping[str, float]) -> str:
    """Return the top-1 of each layer in words."""
    figures = ', '.join(f'{layer} {numbers[layer]:.2f} %' for layer in self._layers)
    return f'{self.row.name}: {figures} of {self.data}'
