"""Classes of two lists matched by their names."""

import collections
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from mixer_jax.data.source import Source
from mixer_jax.errors import UserError, printable

Aliases = Callable[[str], Iterable[str]]
"""Returns further names of a class."""

_SHOWN = 10  # names in a message


def are_numbers(names: Sequence[str]) -> bool:
  """Return True if all names are integers and no two are equal."""
  return all(n.isdecimal() for n in names) and len({int(n) for n in names}) == len(names)


def positions(
  names: Sequence[str], known: Sequence[str], aliases: Aliases = lambda name: ()
) -> list[int | None]:
  """Return the position in `known` of each name; None if it is not there, or there are several.

  An equal name counts most; then one that differs in case, or in how accents are encoded; then an
  alias.
  """
  exact, folded, other = (collections.defaultdict(set) for _ in range(3))
  for position, name in enumerate(known):
    exact[name].add(position)
    folded[_folded(name)].add(position)
    for alias in (name, *aliases(name)):
      other[_folded(alias)].add(position)

  def find(name: str) -> int | None:
    through = set().union(*(other[_folded(alias)] for alias in (name, *aliases(name))))
    for found in (exact[name], folded[_folded(name)], through):
      if len(found) == 1:
        return next(iter(found))
    return None

  return [find(name) for name in names]


def _folded(name: str) -> str:
  return unicodedata.normalize('NFC', name).casefold()


def matched(
  source: Source, known: Sequence[str], owner: str, advice: str, aliases: Aliases = lambda name: ()
) -> Source:
  """Return the source with its classes numbered as those of the same names in `known`.

  Args:
    owner: of the known classes, for messages, such as 'the model'.
    advice: what to do about classes that are not known.

  Raises:
    UserError: a class is not known, or two are the same known one; all are listed.
  """
  if source.classes == tuple(known):
    return source
  found = positions(source.classes, known, aliases)
  unknown = [name for name, at in zip(source.classes, found, strict=True) if at is None]
  if unknown:
    raise UserError(
      f'{source.name} has classes that {owner} does not have: {some(unknown)}; it has '
      f'{some(known)}: {advice}'
    )
  twice = [at for at, count in collections.Counter(found).items() if count > 1]
  if twice:
    same = [name for name, at in zip(source.classes, found, strict=True) if at == twice[0]]
    raise UserError(
      f'{source.name}: {some(same)} are the same class of {owner}: merge these folders'
    )
  return source.renumbered(known, [at for at in found if at is not None])


def some(names: Sequence[str]) -> str:
  """Return the first of several names for a message, and how many more there are."""
  more = f' and {len(names) - _SHOWN:,} more' if len(names) > _SHOWN else ''
  return ', '.join(map(printable, names[:_SHOWN])) + more
