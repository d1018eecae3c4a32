"""Names in a weights file -> its layout, and with it the family of its model."""

import dataclasses
from collections.abc import Mapping
from types import ModuleType

from mixer_jax.checkpoints.containers import Spec
from mixer_jax.errors import UserError
from mixer_jax.models import family as families
from mixer_jax.models import parameters
from mixer_jax.models.files import Layout, Place
from mixer_jax.models.parameters import Shape

_WRAPPERS = ('opt/target/', 'params/', 'img/')
"""Under which training programs keep the params: next to an optimizer, or to a model of text."""
_PREFIXES = ('state_dict.', 'module.', 'model.', '_orig_mod.', 'backbone.', 'ema.')
"""Names under which PyTorch's wrappers and training programs keep a model."""


@dataclasses.dataclass(frozen=True)
class Recognised:
  """The layout of a file.

  Attributes:
    family: module of the model's family.
    layout: one of its layouts.
    num_blocks: number of blocks.
    places: stored name with the flat number of its block -> place in the file.
  """

  family: ModuleType
  layout: Layout
  num_blocks: int
  places: Mapping[str, Place]

  def stored_names(self) -> dict[str, str]:
    """Parameter that a model with so many blocks may have -> its stored name."""
    return {name: self.layout.rename(name) for name in _rows(self.family, self.num_blocks)}


def all_layouts() -> list[tuple[ModuleType, Layout]]:
  """All layouts, each with its family."""
  loaded = families.load_all().values()
  return [(family, layout) for family in loaded for layout in getattr(family, 'LAYOUTS', ())]


def recognise(specs: Mapping[str, Spec]) -> Recognised:
  """Return the layout that most of the names in a file belong to.

  Raises:
    UserError: they belong to none, or are of a model that its family does not have.
  """
  keys = _unwrapped(specs)
  shapes = {name: specs[key].shape for name, key in keys.items()}
  best: Recognised | None = None
  most, broken = 0, None
  for family, layout in all_layouts():
    try:
      places = layout.flattened(shapes)
    except UserError as error:
      broken = error
      continue
    indices = {int(match[1]) for name in places if (match := layout.block.match(name))}
    if not indices:
      continue
    # One stray number must not make thousands of blocks missing.
    count = max(indices) + 1
    num_blocks = count if count <= 2 * len(indices) else len(indices)
    found = Recognised(family, layout, num_blocks, places)
    score = sum(name in places for name in found.stored_names().values())
    if score > most:
      best, most = found, score
  if best is None:
    raise broken or _unknown(shapes)
  for name in best.places:
    for pattern, text in best.layout.strangers:
      if pattern.match(name):
        raise UserError(f'it has {best.places[name].name}: {text}')
  head = [best.layout.rename(name) for name in ('head/kernel', 'head/bias')]
  if not any(name in best.places for name in head):
    raise UserError(
      f'it has no classification head ({", ".join(head)}), as files of features have none: take a '
      'file that has one'
    )
  places = {name: place._replace(name=keys[place.name]) for name, place in best.places.items()}
  return dataclasses.replace(best, places=places)


def mixed_in(recognised: Recognised, strange: Mapping[str, Shape]) -> str:
  """Return the name of another layout of the family that some of these stored names belong to."""
  for layout in recognised.family.LAYOUTS:
    if layout.name != recognised.layout.name:
      names = set(map(layout.rename, _rows(recognised.family, recognised.num_blocks)))
      if names & set(strange) - set(recognised.stored_names().values()):
        return layout.name
  return ''


def _unknown(names: Mapping[str, Shape]) -> UserError:
  some = ', '.join(list(names)[:3]) or 'no arrays at all'
  families_of = list(dict.fromkeys(f'a {family.NAME}' for family, _ in all_layouts()))
  known = ' or '.join(filter(None, (', '.join(families_of[:-1]), families_of[-1])))
  return UserError(f'these are not the weights of {known}: it holds {some}')


def _rows(family: ModuleType, num_blocks: int) -> dict:
  return parameters.rows(family.PARAMETERS, num_blocks)


def _unwrapped(specs: Mapping[str, Spec]) -> dict[str, str]:
  """Name in its layout -> name in the file, which may put a prefix before all."""
  keys = {name: name for name in specs}
  for prefix in _WRAPPERS:
    if any(name.startswith(prefix) for name in keys):
      kept = [name for name in keys if not _is_beside(name, prefix)]
      twice = [name for name in kept if prefix + name in keys]
      if twice:
        raise UserError(f'array {twice[0]} is in it twice: also as {prefix}{twice[0]}')
      keys = {name.removeprefix(prefix): keys[name] for name in kept}
  while keys and (
    shared := [prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in keys)]
  ):
    keys = {name.removeprefix(shared[0]): key for name, key in keys.items()}
  return keys


def _is_beside(name: str, prefix: str) -> bool:
  """Return True for an array of an optimizer or a model of text, stored next to the params."""
  if prefix == 'img/':  # the other side of a model of pairs, its temperature and its bias
    return name.startswith('txt/') or name in ('t', 'b')
  return name.startswith('opt/') and not name.startswith(prefix)
