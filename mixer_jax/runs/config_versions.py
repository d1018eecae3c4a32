"""Stored configs of earlier formats, completed with the fields that they did not have.

A run keeps its config in `config.json` and in every state. A field that was added later gets, for
a run that began before, the value that means what was computed then, so that the run resumes with
the same bits and is evaluated in the same way.

To add a field that decides a result: add it to the last row of `_ADDED`, with that value. If
`configs/` sets it to another one, or changes a value: add that to the last row of `_CHANGED`.
"""

import copy
import types
from collections.abc import Mapping
from typing import Any

from mixer_jax.checkpoints.state_format import FORMAT, format_of
from mixer_jax.errors import UserError
from mixer_jax.runs.fields import flatten
from mixer_jax.runs.run_config import RunConfig

_ADDED: Mapping[int, Mapping[str, Any]] = types.MappingProxyType(
  {
    # Format 0 is several: fields were added while runs stored no number. Each run lacks those that
    # came after it began.
    1: {
      'mixup': 0.0,
      'mixup_per': 'batch',
      'total_epochs': 0.0,
      'init_head': 'zero',
      'init_blocks': '',
      'keep_best': False,
      'early_stopping.metric': 'top1',
      'early_stopping.patience': 0,
      'fewshot.every': 0,
      'fewshot.name': 'imagenet2012',
      'fewshot.train_split': 'train',
      'fewshot.eval_split': 'validation',
      'fewshot.shots': '5',
      'fewshot.seeds': 3,
      'fewshot.l2': 1024.0,
      'fewshot.constant': 100.0,
      'fewshot.max_reads': 0,
      'data.test_split': '',
      'data.folder_rules': 1,
      'data.max_crop_area': 1.0,
      'data.min_crop_aspect': 3 / 4,
      'data.max_crop_aspect': 4 / 3,
      'data.randaugment_layers': 0,
      'data.randaugment_magnitude': 0.0,
      'data.permutation': 'none',
      'data.permutation_patch': 16,
      'data.permutation_seed': 0,
      'data.undecodable': 'fatal',
      'data.changed': 'refuse',
      'data.crop': 'uniform-area',
      'fewshot.recipe': '',
      'fewshot.crop_fraction': 0.875,
      'optimizer.end_factor': 0.0,
      'optimizer.weight_decay_times': 'learning_rate',
      'optimizer.momentum_dtype': 'float32',
      'data.max_megapixels': 134,
      'processes.distributed': 'auto',
      'processes.start_seconds': 300,
      'processes.heartbeat_seconds': 100,
      'processes.shutdown_seconds': 60,
    },
    2: {
      'data.workers': 'auto',
      'data.decode_scale': 'none',
    },
    3: {
      'data.crop_resize': 0,
      'optimizer.decay_at': '',
      'optimizer.sam_rho': 0.0,
      'optimizer.sam_rho_end': 0.0,
      'optimizer.sam_alpha': 0.0,
    },
  }
)
"""Format -> fields that it added, by dotted name -> their value for runs of earlier formats."""

_CHANGED: Mapping[int, Mapping[str, Mapping[Any, Any]]] = types.MappingProxyType(
  {
    1: {
      'data.crop': {'tensorflow': 'uniform-area'},
      'data.max_crop_aspect': {1.33: 4 / 3},
      'data.folder_rules': {2: 1},
      'fewshot.train_split': {'': 'train'},
      'fewshot.recipe': {'resize-crop': ''},
      # Epochs of configs/pretrain.py counted on all images, not on the 99 % that are trained on:
      # ImageNet, ImageNet-21k, and JFT-300M for 5, 7 and 14 epochs.
      'total_steps': {
        92_897: 93_835, 1_029_427: 1_039_826,
        362_549: 366_211, 507_568: 512_695, 1_015_137: 1_025_391,
      },
    },
  }
)  # fmt: skip
"""Format -> fields whose value in `configs/` it changed -> that value -> the one before."""

assert max(_ADDED) <= FORMAT

_RECIPES = {'resmall': 'resmall-crop', 'resize': 'resize-crop'}
"""Value of `data.eval_resize` -> value of `data.eval_recipe`, which replaced it in format 0."""


def stored_config(name, stored: Mapping[str, Any]) -> dict[str, Any]:
  """Return the config of a run as `RunConfig.from_fields` takes it; a fresh copy.

  Args:
    name: the file or state, for messages.
    stored: content of a `config.json`, or the metadata of a state.

  Raises:
    UserError: a newer version of mixer_jax wrote it, or it holds no config.
  """
  number = format_of(name, stored)
  fields = copy.deepcopy(stored.get('config'))
  if not isinstance(fields, dict):
    raise UserError(f'{name} holds no config of a run')
  data = fields.get('data')
  if number == 0 and isinstance(data, dict) and 'eval_resize' in data:
    resize = data.pop('eval_resize')
    data.setdefault('eval_recipe', _RECIPES.get(resize, resize))
  for added in range(number + 1, FORMAT + 1):
    for field, value in _ADDED.get(added, {}).items():
      _set_missing(fields, field, value)
  optimizer = fields.get('optimizer')
  if number < 3 and isinstance(optimizer, dict) and optimizer.get('name') == 'adam':
    optimizer['momentum_dtype'] = 'float32'  # the field was of SGD alone
  return fields


def as_begun(config: RunConfig, stored: Mapping[str, Any]) -> RunConfig:
  """Return a config with the values of `configs/` as they were when the stored run began.

  So the command that began a run resumes it after an update. A value that `configs/` never had is
  kept.

  Args:
    stored: what `workdir.stored_run` returns.
  """
  new, old = flatten(config.to_fields()), flatten(stored['config'])
  changes = {}
  for changed in range(stored['format'] + 1, FORMAT + 1):
    for name, before in _CHANGED.get(changed, {}).items():
      if new[name] in before and old.get(name) == before[new[name]]:
        changes[name] = old[name]
  return config.with_fields(changes) if changes else config


def _set_missing(fields: dict[str, Any], name: str, value: Any) -> None:
  """Sets a field, given by its dotted name, unless it is there."""
  *groups, last = name.split('.')
  for group in groups:
    fields = fields.setdefault(group, {})
    if not isinstance(fields, dict):
      return  # `RunConfig.from_fields` names the fault
  fields.setdefault(last, value)
