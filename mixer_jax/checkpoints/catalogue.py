"""Tables of the variants that the families name, and of the published files."""

from mixer_jax import models
from mixer_jax.checkpoints import published
from mixer_jax.models import family

_FILE_HEADS = ('published file', 'classes', 'MiB', 'top-1', 'ReaL', 'recipe', 'here', 'note')

Rows = list[list[str]]


def variants() -> list[Rows]:
  """Return a table for each family that names variants: header and rows, sizes and costs."""
  return [_variants(module) for module in family.load_all().values() if hasattr(module, 'VARIANTS')]


def _variants(module) -> Rows:
  columns = getattr(module, 'COLUMNS', {name: name for name in module.ARCHITECTURE})
  rows = [['variant', *columns, 'parameters', 'no head', 'GFLOP']]
  for name, config in module.VARIANTS.items():
    params = models.num_params(config)
    costs = (f'{params:,}', f'{params - models.num_head_params(config):,}')
    gflop = models.forward_flops(config) / 1e9
    sizes = (str(getattr(config, field)) for field in columns.values())
    rows.append([name, *sizes, *costs, f'{gflop:.2f}'])
  return rows


def published_files() -> Rows:
  """Return a table of the files to load by name: header and rows."""
  return [list(_FILE_HEADS), *map(_file_row, published.table().values())]


def _file_row(entry: published.Released) -> list[str]:
  known = lambda value: '–' if value is None else f'{value:.2f}'
  return [
    entry.name,
    f'{entry.config.num_classes:,}',
    known(entry.mebibytes),
    known(entry.top1),
    known(entry.real),
    entry.recipe,
    'yes' if (published.mirrored(entry) or published.cached(entry)).exists() else 'no',
    entry.note,
  ]
