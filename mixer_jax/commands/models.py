"""`mixer-jax models`: the paper's variants and what they take."""

from mixer_jax import models
from mixer_jax.commands import arguments

_HEADS = (
  'variant',
  'blocks',
  'patch',
  'tokens',
  'channels',
  'token MLP',
  'channel MLP',
  'parameters',
  'no head',
  'GFLOP',
)


def main(argv: list[str]) -> None:
  """Prints Table 1 of the paper, counted from the models of this package."""
  parser = arguments.Parser('models', __doc__ or '')
  parser.parse_flags(argv)
  rows = [list(_HEADS), *(_row(name, config) for name, config in models.VARIANTS.items())]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    print('  '.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
  print('\n224 px, 1000 classes. GFLOP: matrix multiplies of one forward pass, 2 per multiply-add.')


def _row(name: str, config: models.MixerConfig) -> list[str]:
  sizes = (
    config.num_blocks,
    config.patch_size,
    config.num_tokens,
    config.hidden_dim,
    config.tokens_mlp_dim,
    config.channels_mlp_dim,
  )
  params = models.num_params(config)
  headless = params - (config.hidden_dim + 1) * config.num_classes
  gflop = models.forward_flops(config) / 1e9
  return [name, *map(str, sizes), f'{params:,}', f'{headless:,}', f'{gflop:.2f}']
