"""A checkpoint, and the data that a command looks at it on."""

import argparse
import dataclasses

from mixer_jax import checkpoints, models
from mixer_jax.checkpoints import Checkpoint, published
from mixer_jax.data.catalog import open_source
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.parallel import processes
from mixer_jax.paths import user_path
from mixer_jax.runs import checkpoint_labels, config_file, experiment, pod
from mixer_jax.runs.run_config import RunConfig


@dataclasses.dataclass(frozen=True)
class Subject:
  """What was read of a checkpoint, and where and on what it is looked at."""

  checkpoint: Checkpoint
  model: models.ModelConfig
  """The checkpoint's, with what of its arithmetic the command line sets."""
  on: experiment.EvaluationSetup
  named: RunConfig | None
  """The config of the command line."""


_NO_DATA = (
  '{} does not tell what to evaluate on: name it, as in --config=configs/evaluate.py:imagenet2012 '
  'or --config=configs/evaluate.py:folder:DIR'
)


def begin(command: str, args: argparse.Namespace, overrides: list[str]) -> Subject:
  """What a command with --checkpoint and --config begins with; all processes call it alike.

  Args:
    args: with `checkpoint`, `config`, and what `Parser.add_reading` adds.
  """
  config = None
  if args.config:
    config = RunConfig.from_fields(config_file.load_config(args.config, overrides))
  settings = pod.settings_of(vars(args), config and config.to_fields())
  pod.join(command, settings, config and config.processes)
  source = processes.together(lambda: _named_source(args.checkpoint, config))
  return look_at(args.checkpoint, args, config, overrides, source)


def _named_source(checkpoint: str, config: RunConfig | None) -> Source | None:
  """The data of the config that is named; before a checkpoint is downloaded for it.

  Raises:
    UserError: there is no such data, or nothing that could tell of any.
  """
  if config is not None:
    return open_source(config.data.name, config.data.eval_split, config.data.data_dir)
  if published.find(checkpoint) and not user_path(checkpoint).exists():
    raise UserError(_NO_DATA.format(checkpoint))
  return None


def look_at(
  path: str,
  args: argparse.Namespace,
  config: RunConfig | None,
  overrides: list[str],
  source: Source | None,
) -> Subject:
  """Reads the checkpoint `path` and opens its data; all processes call it alike.

  Args:
    args: with `recipe`, `gelu` and `input_range` of `Parser.add_reading`.
    config: the one that was named; None: that of the checkpoint's run.
    overrides: `--config.field=value` of the command line.
    source: the data, where it is open already.
  """
  checkpoint = processes.together(lambda: checkpoints.read(path))
  checkpoint = checkpoints.with_arithmetic(checkpoint, args.gelu or '', args.input_range or '')
  complete = _completed(config, args, overrides, checkpoint, path)
  model = _with_chosen(checkpoint.config, complete, overrides)
  on = processes.together(lambda: experiment.open_evaluation(complete, source))
  processes.check_same({'the data': on.source.describe()})
  return Subject(checkpoint, model, on, config)


def _completed(
  config: RunConfig | None,
  args: argparse.Namespace,
  overrides: list[str],
  checkpoint: Checkpoint,
  path: str,
) -> RunConfig:
  """The config that was named, or the run's; with what it leaves to the checkpoint."""
  if config is not None:
    complete = config
  elif 'config' in checkpoint.metadata:
    stored = config_file.with_overrides(checkpoint.metadata['config'], overrides)
    complete = RunConfig.from_fields(stored)
  else:
    raise UserError(_NO_DATA.format(path))
  if args.recipe:
    complete = complete.with_fields({'data.eval_recipe': args.recipe})
  if complete.data.takes_recipe_of_checkpoint:
    recipe, fraction = checkpoint_labels.recipe_of(checkpoint)
    complete = complete.with_fields(
      {'data.eval_recipe': recipe, 'data.eval_crop_fraction': fraction}
    )
  return complete


def _with_chosen(
  model: models.ModelConfig, config: RunConfig, overrides: list[str]
) -> models.ModelConfig:
  """The checkpoint's model, with what of its arithmetic the command line sets."""
  chosen, free = {}, ('dtype', 'gelu', 'input_range')
  for flag in overrides:
    group, _, name = flag.partition('=')[0].removeprefix('--config.').partition('.')
    if group == 'model' and name not in free:
      raise UserError(f"config.model.{name} is the checkpoint's: only {', '.join(free)} can be set")
    if group == 'model':
      chosen[name] = config.model[name]
  return dataclasses.replace(model, **chosen)
