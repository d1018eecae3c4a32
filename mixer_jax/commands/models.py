"""`mixer-jax models`: the paper's variants and what they take; the published files."""

from mixer_jax import models
from mixer_jax.checkpoints import published
from mixer_jax.commands import flags

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
_FILE_HEADS = ('published file', 'classes', 'MiB', 'top-1', 'ReaL', 'recipe', 'here', 'note')


def main(argv: list[str]) -> None:
  """Prints Table 1 of the paper, counted from the models here, and the files to load by name."""
  parser = flags.Parser('models', __doc__ or '')
  parser.parse_flags(argv)
  _print(
    [list(_HEADS), *(_row(name, config) for name, config in models.VARIANTS.items())], str.rjust
  )
  print(
    '\n224 px, 1000 classes. GFLOP: matrix multiplies of one forward pass, 2 per multiply-add.\n'
  )
  _print([list(_FILE_HEADS), *map(_file_row, published.released.values())], str.ljust)
  print(
    '\nAccuracies as published, on ImageNet at 224 px, percent. Load a file by its name, as in\n'
    '`mixer-jax evaluate --checkpoint=imagenet1k/Mixer-B_16 '
    '--config=configs/evaluate.py:imagenet2012`;\n'
    f'it comes from the network, or from the folder that ${published.MIRROR_SETTING} names.'
  )


def _print(rows: list[list[str]], align) -> None:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    cells = (align(cell, width) for cell, width in zip(row, widths, strict=True))
    print('  '.join(cells).rstrip())


def _file_row(entry: published.Released) -> list[str]:
  known = lambda value, digits: '–' if value is None else f'{value:.{digits}f}'
  return [
    entry.name,
    f'{entry.config.num_classes:,}',
    known(entry.mebibytes, 2),
    known(entry.top1, 2),
    known(entry.real, 2),
    entry.recipe,
    'yes' if (published.mirrored(entry) or published.cached(entry)).exists() else 'no',
    entry.note,
  ]


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
