"""Tables of the variants that the families name, and of the published files."""

import dataclasses
from types import ModuleType

from mixer_jax import models
from mixer_jax.checkpoints import published
from mixer_jax.models import family

_FILE_HEADS = (
  *('published file', 'variant', 'px', 'classes', 'MiB', 'top-1', 'ReaL', 'recipe', 'here'),
  'note',
)

Rows = list[list[str]]


@dataclasses.dataclass(frozen=True)
class Chapter:
  """What there is of one family; tables are a header and rows."""

  title: str
  variants: Rows
  files: Rows


def chapters(name: str | None = None) -> list[Chapter]:
  """Return the tables of one family, or of all that name variants or published files.

  Raises:
    UserError: there is no family of this name.
  """
  modules = [family.load(name)] if name else family.load_all().values()
  made = (Chapter(module.NAME, _variants(module), _files(module)) for module in modules)
  return [chapter for chapter in made if len(chapter.variants) + len(chapter.files) > 2]


def _variants(module: ModuleType) -> Rows:
  columns = getattr(module, 'COLUMNS', {name: name for name in module.ARCHITECTURE})
  rows = [['variant', *columns, 'parameters', 'no head', 'GFLOP']]
  for name, config in getattr(module, 'VARIANTS', {}).items():
    params = models.num_params(config)
    costs = (f'{params:,}', f'{params - models.num_head_params(config):,}')
    gflop = models.forward_flops(config) / 1e9
    sizes = (str(getattr(config, field)) for field in columns.values())
    rows.append([name, *sizes, *costs, f'{gflop:.2f}'])
  return rows


def _files(module: ModuleType) -> Rows:
  return [list(_FILE_HEADS), *map(_file_row, published.of_family(module))]


def _file_row(entry: published.Released) -> list[str]:
  known = lambda value: '–' if value is None else f'{value:.2f}'
  arrays = 4 * models.num_params(entry.config) / 2**20
  return [
    entry.name,
    models.base_variant(entry.config),
    str(entry.config.image_size),
    f'{entry.config.num_classes:,}',
    f'~{arrays:.0f}' if entry.mebibytes is None else f'{entry.mebibytes:.2f}',
    known(entry.top1),
    known(entry.real),
    entry.recipe,
    'yes' if (published.mirrored(entry) or published.cached(entry)).exists() else 'no',
    entry.note,
  ]
