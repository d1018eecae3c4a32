"""`mixer-jax inspect`: what a checkpoint is."""

import json

from mixer_jax import checkpoints, models
from mixer_jax.commands import flags
from mixer_jax.models.parameters import flatten
from mixer_jax.runlog import console
from mixer_jax.runs import checkpoint_labels

_LARGEST = 5
_FIELDS = (  # of one family or the other
  *('num_tokens', 'num_blocks', 'hidden_dim', 'tokens_mlp_dim', 'channels_mlp_dim', 'gelu'),
  *('stages', 'width', 'stem', 'groups'),
)


def main(argv: list[str]) -> None:
  """Reads the whole checkpoint, so that what it prints is known to be whole and finite."""
  parser = flags.Parser('inspect', __doc__ or '')
  parser.add_argument('checkpoint', metavar='SRC', help=flags.CHECKPOINT)
  parser.add_argument('--json', action='store_true', help='print a JSON object')
  args = parser.parse_flags(argv)
  console.setup_console()
  checkpoint = checkpoints.read(args.checkpoint)
  config, arrays = checkpoint.config, flatten(checkpoint.params)
  largest = sorted(arrays, key=lambda name: -arrays[name].nbytes)[:_LARGEST]
  told = {
    'checkpoint': args.checkpoint,
    'file': checkpoint.file,
    'layout': checkpoint.layout,
    'variant': models.variant_of(config),
    'image_size': config.image_size,
    'num_classes': config.num_classes,
    **{name: getattr(config, name) for name in _FIELDS if hasattr(config, name)},
    'input_range': config.input_range,
    'assumed': ['gelu', 'input_range'] if checkpoint_labels.is_assumed(checkpoint) else [],
    'parameters': sum(array.size for array in arrays.values()),
    'bytes': sum(array.nbytes for array in arrays.values()),
    'dtype': ', '.join(checkpoint.dtypes),
    'arrays': len(arrays),
    'largest': {name: list(arrays[name].shape) for name in largest},
  }
  if checkpoint.published:
    told['published'] = {
      name: value
      for name in ('url', 'top1', 'real', 'recipe', 'note')
      if (value := getattr(checkpoint.published, name))
    }
  told |= {k: checkpoint.metadata[k] for k in ('step', 'data') if k in checkpoint.metadata}
  if 'origin' in checkpoint.metadata:
    told['origin'] = checkpoint.metadata['origin']
  if args.json:
    print(json.dumps(told))
    return
  assumed = told.pop('assumed')
  if origin := told.get('origin'):
    told['origin'] = f'blocks {",".join(map(str, origin["blocks"]))} of {origin["checkpoint"]}'
  for name, value in told.items():
    if isinstance(value, dict):
      print(f'{name}:')
      for part, text in value.items():
        print(f'  {part:44} {_text(text)}')
    else:
      size = f' ({value / 2**20:.2f} MiB)' if name == 'bytes' else ''
      doubt = ' (assumed: a weights file does not tell)' if name in assumed else ''
      print(f'{name:17} {_text(value)}{size}{doubt}')


def _text(value) -> str:
  if isinstance(value, list):
    return ' × '.join(map(str, value))
  return f'{value:,}' if isinstance(value, int) and value >= 10_000 else str(value)
