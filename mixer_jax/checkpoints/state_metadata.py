"""The metadata of a state: parsed, and checked before anything of it is used or shown.

It is a JSON object that Orbax keeps with the arrays: a digest of every array, the step, and what is
needed to use the state alone. Its checksum detects damage, not a change on purpose;
so types are checked as well, and the model is compared with the arrays.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from mixer_jax import models
from mixer_jax.checkpoints.state_format import format_of
from mixer_jax.errors import UserError, one_line
from mixer_jax.models import parameters


class DamagedError(Exception):
  """A step's folder does not hold what was saved; the message names the fault."""


def checksum(metadata: Mapping[str, Any]) -> int:
  """Return the checksum of the metadata without its own."""
  return zlib.crc32(json.dumps(metadata, sort_keys=True).encode())


def parse(data: bytes, folder: str) -> dict[str, Any]:
  """Return the metadata that `Store.save` was given, with `step`, `best_step` and `digests`.

  Args:
    data: Orbax's file.
    folder: name of the state's folder; the step, if it is a number.

  Raises:
    DamagedError: it is not what was saved.
    UserError: a newer version of mixer_jax wrote it.
  """
  try:
    metadata = json.loads(data)['custom_metadata']
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise DamagedError(f'its metadata cannot be read: {one_line(error, 100)}') from error
  if not isinstance(metadata, dict):
    raise DamagedError('its metadata is not what was saved')
  stored = metadata.pop('checksum', None)
  has_checksum = stored is not None or 'format' in metadata  # the first runs had none
  if has_checksum and stored != checksum(metadata):
    raise DamagedError('its metadata is not what was saved')
  format_of(f'the state of step {metadata.get("step")!s:.20}', metadata)
  for name in ('step', 'digests'):
    if name not in metadata:
      raise DamagedError(f'its metadata has no {name}')
  for name, value in metadata.items():
    if name in _IS_VALID and not _IS_VALID[name](value):
      raise DamagedError(f'{name} in its metadata is not what was saved')
  if folder.isdigit() and metadata['step'] != int(folder):
    raise DamagedError(f'it is the state of step {metadata["step"]}')
  return metadata


def model_of(metadata: Mapping[str, Any]):
  """Return the config of the model. It costs nothing to have, however large its sizes are.

  Raises:
    UserError: its family is not installed here.
    DamagedError: these are not the fields of a model, or it has more blocks than there are arrays.
  """
  fields = metadata.get('model')
  if not isinstance(fields, dict) or not isinstance(fields.get('family', ''), str):
    raise DamagedError('its metadata names no model')
  models.config_type(fields)
  try:
    config = models.config_from(fields)
    blocks = getattr(config, 'num_blocks', 0)
  except (UserError, TypeError, ValueError, ArithmeticError) as error:
    raise DamagedError(f'its metadata describes no model: {one_line(error, 100)}') from error
  if blocks > len(metadata['digests']):
    raise DamagedError(f'its metadata names {blocks:,} blocks, more than it has arrays')
  if len(metadata.get('classes') or ()) not in (0, config.num_classes):
    raise DamagedError(f'its metadata names other classes than the {config.num_classes:,} outputs')
  return config


def check_arrays(config, params: Any, state: Any) -> None:
  """Check names and shapes of arrays, or of their descriptions, against the model.

  Raises:
    DamagedError: naming the first fault.
  """
  for wanted, found in zip(models.split(models.shapes(config)), (params, state), strict=True):
    shapes = lambda tree: {name: leaf.shape for name, leaf in parameters.flatten(tree).items()}
    listed = parameters.faults(shapes(wanted), shapes(found), models.variant_of(config))
    if listed:
      raise DamagedError(f'its arrays are not those of the model in its metadata: {listed[0]}')


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
  return type(value) is int and value >= 0


def _is_origin(value: Any) -> bool:
  blocks = value.get('blocks') if isinstance(value, dict) else None
  return (
    isinstance(blocks, list) and all(map(_is_count, blocks)) and _is_text(value.get('checkpoint'))
  )


def _is_standing(value: Any) -> bool:
  if not isinstance(value, dict) or value.keys() != {'step', 'best_step', 'best', 'stale'}:
    return False
  counts = all(_is_count(value[name]) for name in ('step', 'best_step', 'stale'))
  return counts and (value['best'] is None or _is_number(value['best']))


_IS_VALID: dict[str, Callable[[Any], bool]] = {
  'step': _is_count,
  'best_step': lambda value: value is None or _is_count(value),
  'digests': lambda value: isinstance(value, dict) and all(map(_is_count, value.values())),
  'model': lambda value: isinstance(value, dict),
  'config': lambda value: isinstance(value, dict),
  'data': _is_text,
  'classes': lambda value: isinstance(value, list) and all(map(_is_text, value)),
  'eval_recipe': _is_text,
  'eval_crop_fraction': _is_number,
  'origin': _is_origin,
  'standing': _is_standing,
}
"""Field -> check of its type. Other fields are those of a run that knows them."""
