"""A checkpoint that is ready to be evaluated, with the images and devices for it."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mixer_jax import checkpoints, models
from mixer_jax.checkpoints import Checkpoint, published
from mixer_jax.data.batch import Batch
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.paths import user_path
from mixer_jax.runs import config_file, pod
from mixer_jax.runs.checkpoint_labels import evaluation_recipe, trained_loss
from mixer_jax.runs.config_versions import stored_config
from mixer_jax.runs.data_splits import open_evaluated
from mixer_jax.runs.evaluation_setup import EvaluationSetup, open_evaluation
from mixer_jax.runs.fields import list_text
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.runs.workdir import stored_run


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A checkpoint with its evaluation data.

  Attributes:
    path: path or published name that it was loaded by.
    checkpoint: its weights, on the host, and what is known about them.
    model: its configuration, with the arithmetic that was chosen when it was loaded.
    setup: images, how they are read, and the devices.
    config: the config that `setup` follows.
    loss: 'softmax' or 'sigmoid', as its run was trained: what the logits mean.
  """

  path: str
  checkpoint: Checkpoint
  model: models.ModelConfig
  setup: EvaluationSetup
  config: RunConfig
  loss: str

  def place_params(self) -> dict:
    """Return the weights on the devices of the mesh."""
    return meshes.put_replicated(self.setup.mesh, self.checkpoint.params)

  def batches(self) -> Iterator[Batch]:
    """Return this process's batches of the evaluation split, at the model's image size."""
    return self.setup.batches(self.model.image_size)


def loaded_model(model: LoadedModel | str | os.PathLike) -> LoadedModel:
  """Return the model; a path or a published name is read as by `load_for_evaluation`."""
  return model if isinstance(model, LoadedModel) else load_for_evaluation(model)


_NO_DATA = (
  '{} does not say which data set to evaluate on: name one, as in '
  '--config=configs/evaluate.py:imagenet2012 or --config=configs/evaluate.py:folder:DIR'
)


def load_for_evaluation(
  checkpoint: str | os.PathLike,
  config: RunConfig | None = None,
  *,
  overrides: Mapping[str, Any] | None = None,
  recipe: str | None = None,
  gelu: str | None = None,
  input_range: str | None = None,
  num_heads: int | None = None,
  source: Source | None = None,
) -> LoadedModel:
  """Read a checkpoint and open its evaluation data. All processes call it alike.

  Args:
    checkpoint: what `mixer_jax.load` takes: a workdir, one of its steps, a weights file, or a
      published name.
    config: data, recipe, batch size and mesh; None: those of the checkpoint's run.
    overrides: dotted field of the config -> value, such as {'data.eval_split': 'test[:50]'}. Of the
      model only its arithmetic can be set, such as {'model.dtype': 'bfloat16'}. {'loss': 'sigmoid'}
      is for weights files of models that were trained so.
    recipe: name of the evaluation recipe; None: that of the config, or of the checkpoint if the
      config leaves it open.
    gelu: 'tanh' or 'erf'; None: as far as the checkpoint contains it.
    input_range: '[-1, 1]' or '[0, 1]'; None: likewise.
    num_heads: attention heads of a ViT in a file that does not store them; None: those it stores.
    source: the evaluation images, if they are open already.

  Raises:
    UserError: no such checkpoint, data set, field or recipe; or no config, and the checkpoint does
      not contain one.
  """
  if config is not None and not isinstance(config, RunConfig):
    raise UserError(f'config is a RunConfig, as load_config returns, not {config!r:.80}')
  return _load(
    os.fspath(checkpoint), config, None, overrides, recipe, gelu, input_range, num_heads, source
  )


def _load(
  path: str,
  config: RunConfig | None,
  default: RunConfig | None,
  overrides: Mapping[str, Any] | None,
  recipe: str | None,
  gelu: str | None,
  input_range: str | None,
  num_heads: int | None,
  source: Source | None,
) -> LoadedModel:
  """As `load_for_evaluation`; `default` is for a checkpoint that no run has saved."""
  overrides = dict(overrides or {})
  read = processes.together(lambda: _with_config(checkpoints.read(path, num_heads=num_heads)))
  if config is None and 'config' not in read.metadata:
    config = default
  read = checkpoints.with_arithmetic(read, gelu or '', input_range or '')
  complete = _complete_config(read, path, config, overrides, recipe)
  model = _with_arithmetic(read.config, complete, overrides)
  setup = processes.together(lambda: open_evaluation(complete, source))
  processes.check_same({'the data': setup.source.describe()})
  is_chosen = 'loss' in overrides or 'config' not in read.metadata
  loss = complete.loss if is_chosen else trained_loss(read)
  return LoadedModel(path, read, model, setup, complete, loss)


def _with_config(checkpoint: Checkpoint) -> Checkpoint:
  """Return a state of the first runs with its config, which only its workdir has."""
  if not checkpoint.metadata or 'config' in checkpoint.metadata:
    return checkpoint
  folder = user_path(checkpoint.file)
  for workdir in (folder, folder.parent, folder.parent.parent):  # it, its states, or one of these
    if stored := stored_run(workdir):
      metadata = {**checkpoint.metadata, 'config': stored['config']}
      return dataclasses.replace(checkpoint, metadata=metadata)
  return checkpoint


def _complete_config(
  checkpoint: Checkpoint,
  path: str,
  config: RunConfig | None,
  overrides: Mapping[str, Any],
  recipe: str | None,
) -> RunConfig:
  """Return the given config, or the run's, with overrides and the recipe filled in."""
  if config is None and 'config' not in checkpoint.metadata:
    raise UserError(_NO_DATA.format(path))
  fields = config.to_fields() if config else stored_config(path, checkpoint.metadata)
  flags = [f'--config.{name}={_as_flag(value)}' for name, value in overrides.items()]
  complete = RunConfig.from_fields(config_file.with_overrides(fields, flags))
  if recipe:
    complete = complete.with_fields({'data.eval_recipe': recipe})
  if complete.data.takes_recipe_of_checkpoint:
    name, fraction = evaluation_recipe(checkpoint)
    complete = complete.with_fields({'data.eval_recipe': name, 'data.eval_crop_fraction': fraction})
  return complete


def _as_flag(value: Any) -> str:
  return list_text(value) if isinstance(value, tuple | list) else str(value)


def _with_arithmetic(
  model: models.ModelConfig, config: RunConfig, overrides: Mapping[str, Any]
) -> models.ModelConfig:
  """Return the checkpoint's model with those fields of `config.model` that are overridden.

  Raises:
    UserError: one of them is decided by the weights, or this model does not have it.
  """
  fields = {field.name for field in dataclasses.fields(model)}
  free = ('dtype', *models.arithmetic(model))
  chosen = {}
  for override in overrides:
    group, _, name = override.partition('.')
    if group != 'model':
      continue
    if name not in free:
      unknown = f'is no field of a {models.variant_of(model)}'
      reason = "is the checkpoint's" if name in fields else unknown
      raise UserError(f'config.model.{name} {reason}: only {", ".join(free)} can be set')
    chosen[name] = config.model[name]
  return dataclasses.replace(model, **chosen)


def open_for_command(
  command: str,
  checkpoints: Sequence[str],
  spec: str | None,
  overrides: Sequence[str],
  *,
  settings: Mapping[str, Any],
  recipe: str | None = None,
  gelu: str | None = None,
  input_range: str | None = None,
  num_heads: int | None = None,
) -> list[LoadedModel]:
  """Join the other processes of a command and load its checkpoints, all on the same images.

  Args:
    command: name of the command.
    checkpoints: paths or names; the images are those of the first. One that no run has saved has
      the config of the one before, and its own recipe.
    spec: config file, FILE[:ARG]; None: the config of each checkpoint's run.
    overrides: `--config.field=value`.
    settings: flags that all processes must agree on, by name.
    recipe, gelu, input_range, num_heads: see `load_for_evaluation`.

  Raises:
    UserError: as `load_for_evaluation`; the data that is named is opened before any download.
  """
  config = RunConfig.from_fields(config_file.load_config(spec, overrides)) if spec else None
  pod.join(
    command,
    pod.settings_of(settings, config and config.to_fields()),
    config and config.processes,
  )
  changes = dict(flag.removeprefix('--config.').split('=', 1) for flag in overrides)
  source = processes.together(lambda: _named_source(checkpoints[0], config))
  loaded: list[LoadedModel] = []
  default = None
  for path in checkpoints:
    model = _load(path, config, default, changes, recipe, gelu, input_range, num_heads, source)
    source = model.setup.source
    default = model.config.with_fields({'data.eval_recipe': 'checkpoint'})
    loaded.append(model)
  return loaded


def _named_source(checkpoint: str, config: RunConfig | None) -> Source | None:
  """Open the data of a config; before a checkpoint is downloaded for it.

  Raises:
    UserError: there is no such data, or neither a config nor a run that names any.
  """
  if config is not None:
    return open_evaluated(config.data)
  if published.find(checkpoint) and not user_path(checkpoint).exists():
    raise UserError(_NO_DATA.format(checkpoint))
  return None
