"""`mixer-jax models`: the paper's variants and what they take."""

from mixer_jax import models
from mixer_jax.commands import arguments


def main(argv: list[str]) -> None:
  """Prints Table 1 of the paper, counted from the models of this package."""
  arguments.Parser('models', __doc__ or '').parse(argv)
  heads = ('variant', 'blocks', 'patch', 'tokens', 'channels', 'token MLP', 'channel MLP',
           'parameters', 'no head', 'GFLOP')  # fmt: skip
  rows = [heads]
  for name, config in models.VARIANTS.items():
    head = (config.hidden_dim + 1) * config.num_classes
    params = models.num_params(config)
    rows.append(
      (name, *map(str, (config.num_blocks, config.patch_size, config.num_tokens,
       config.hidden_dim, config.tokens_mlp_dim, config.channels_mlp_dim)),
       f'{params:,}', f'{params - head:,}', f'{models.forward_flops(config) / 1e9:.2f}')
    )  # fmt: skip
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    print('  '.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
  print('\n224 px, 1000 classes. GFLOP: matrix multiplies of one forward pass, 2 per multiply-add.')
