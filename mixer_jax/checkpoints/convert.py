"""A checkpoint of any kind -> a weights file."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mixer_jax import models
from mixer_jax.checkpoints import layouts
from mixer_jax.checkpoints.load import adapted, read
from mixer_jax.errors import UserError
from mixer_jax.models.files import Layout
from mixer_jax.paths import is_remote, user_path


@dataclasses.dataclass(frozen=True)
class Converted:
  """A weights file that was written."""

  file: str
  config: Any
  layout: str
  warnings: tuple[str, ...]
  """Values that the file does not hold, each with the flag that sets it."""


def convert(
  source: str,
  target: str,
  *,
  layout: str | None = None,
  image_size: int | None = None,
  num_classes: int | None = None,
  blocks: Sequence[int] | None = None,
  num_heads: int | None = None,
) -> Converted:
  """Write a checkpoint as a weights file.

  Args:
    source: as for `load`, like the last four.
    target: `*.npz` or `*.safetensors`, local or `gs://…`; must not exist.
    layout: as for `save`.

  Raises:
    UserError: one of them is wrong; nothing is written then.
  """
  path = user_path(target)
  layouts.layout_to_write(path, layout)
  if path.exists():
    raise UserError(f'{path} exists already: remove it, or write to another name')
  if not path.parent.exists() and not is_remote(target):
    raise UserError(f'no folder {path.parent}: make it first')
  checkpoint = read(source, num_heads=num_heads, image_size=image_size)
  config, params = adapted(
    checkpoint, image_size=image_size, num_classes=num_classes, blocks=blocks
  )
  chosen = layouts.layout_to_write(path, layout, config)
  layouts.save(path, config, params, chosen.name)
  warnings = [
    *_lost_fields(config, chosen),
    *_lost_metadata(checkpoint.metadata),
    chosen.caveat(config),
  ]
  return Converted(str(path), config, chosen.name, tuple(filter(None, warnings)))


def _lost_fields(config, layout: Layout) -> list[str]:
  """Return a warning for each field that a reader of the file would take for another."""
  known, lost = layouts.told(config, layout), []
  for name in ('image_size', *models.arithmetic(config)):
    value = getattr(config, name)
    if value != getattr(known, name):
      flag = f'--{name.replace("_", "-")}={value!r}'
      flags = '' if name == 'image_size' else f', predict {flag}, evaluate {flag}'
      lost.append(f'a weights file does not hold {name}: load(…, {name}={value!r}){flags}')
  return lost


def _lost_metadata(metadata: dict[str, Any]) -> list[str]:
  if not metadata:
    return []
  lost = [
    'a weights file does not hold the classes (--labels=FILE) nor the recipe '
    f'(--recipe={metadata["eval_recipe"]})'
  ]
  if metadata.get('config', {}).get('loss') == 'sigmoid':
    lost.append(
      'a weights file does not hold that probabilities are sigmoids: predict --loss=sigmoid, '
      'evaluate --config.loss=sigmoid'
    )
  return lost
