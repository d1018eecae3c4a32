"""Description of a checkpoint: model, sizes, origin, as a dict and as text."""

from typing import Any

from mixer_jax import models
from mixer_jax.checkpoints.load import Checkpoint
from mixer_jax.models.parameters import flatten

_LARGEST = 5
_PUBLISHED = ('url', 'top1', 'real', 'recipe', 'note', 'training')


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
  """Return a JSON-able description; `assumed` names fields that the checkpoint does not hold."""
  config = checkpoint.config
  params, _ = models.split(checkpoint.params)
  arrays = flatten(params)
  largest = sorted(arrays, key=lambda name: -arrays[name].nbytes)[:_LARGEST]
  about = {
    'file': checkpoint.file,
    'layout': checkpoint.layout,
    'variant': models.variant_of(config),
    'image_size': config.image_size,
    'num_classes': config.num_classes,
    **models.summary(config),
    'input_range': config.input_range,
    'assumed': list(models.arithmetic(config)) if checkpoint.is_assumed else [],
    'parameters': sum(array.size for array in arrays.values()),
    'bytes': sum(array.nbytes for array in arrays.values()),
    'dtype': ', '.join(checkpoint.dtypes),
    'arrays': len(arrays),
    'largest': {name: list(arrays[name].shape) for name in largest},
  }
  if checkpoint.published:
    fields = {name: getattr(checkpoint.published, name) for name in _PUBLISHED}
    about['published'] = {name: value for name, value in fields.items() if value}
    about['published'] |= about['published'].pop('training', {})
  stored = checkpoint.metadata
  return about | {name: stored[name] for name in ('step', 'data', 'origin') if name in stored}


def as_text(about: dict[str, Any]) -> str:
  """Return a description as lines of text."""
  about, lines = dict(about), []
  assumed = about.pop('assumed')
  if origin := about.get('origin'):
    about['origin'] = f'blocks {",".join(map(str, origin["blocks"]))} of {origin["checkpoint"]}'
  width = max(17, *map(len, about))
  for name, value in about.items():
    if isinstance(value, dict):
      wide = max(44, *map(len, value))
      lines += [f'{name}:', *(f'  {part:{wide}} {_text(text)}' for part, text in value.items())]
    else:
      size = f' ({value / 2**20:.2f} MiB)' if name == 'bytes' else ''
      doubt = ' (assumed: not in a weights file)' if name in assumed else ''
      lines.append(f'{name:{width}} {_text(value)}{size}{doubt}')
  return '\n'.join(lines)


def _text(value) -> str:
  if isinstance(value, list):
    return ' × '.join(map(str, value))
  return f'{value:,}' if isinstance(value, int) and value >= 10_000 else str(value)
