"""Differences between the contents of a data set at two times."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mixer_jax.errors import printable

_SHOWN = 3
_KEPT = 20


@dataclasses.dataclass(frozen=True)
class Changes:
  """Names that were added, removed, renamed ('old → new') or have another value.

  A file is renamed if one with its size was removed and one was added.
  """

  added: Sequence[str]
  removed: Sequence[str]
  renamed: Sequence[str]
  changed: Sequence[str]

  @classmethod
  def between(cls, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> 'Changes | None':
    """Return the differences; None if there are none, or the old contents are not known."""
    if old is None or old == new:
      return None
    removed = [name for name in old if name not in new]
    added = [name for name in new if name not in old]
    other = [name for name in old if name in new and old[name] != new[name]]
    changed = [f'{name} ({old[name]} → {new[name]})' for name in other]
    pairs = _renamed({name: old[name] for name in removed}, {name: new[name] for name in added})
    return cls(
      added=sorted(set(added) - set(pairs.values())),
      removed=sorted(set(removed) - set(pairs)),
      renamed=[f'{name} → {pairs[name]}' for name in sorted(pairs)],
      changed=sorted(changed),
    )

  def __str__(self) -> str:
    """Return the number of each kind and the first names, on one line."""
    parts = []
    for kind, names in vars(self).items():
      if names:
        more = ', …' if len(names) > _SHOWN else ''
        parts.append(f'{len(names):,} {kind} ({printable(", ".join(names[:_SHOWN]))}{more})')
    return ', '.join(parts) or 'their order'

  def as_fields(self) -> dict[str, Any]:
    """Return the number of each kind, and the first names, for `metrics.jsonl`."""
    counts = {kind: len(names) for kind, names in vars(self).items()}
    first = [f'{kind}: {name}' for kind, names in vars(self).items() for name in names[:_KEPT]]
    return {**counts, 'names': first}


def _renamed(removed: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, str]:
  """Return old -> new name of the values that are once in each."""
  by_value = []
  for names in (removed, added):
    found = collections.defaultdict(list)
    for name, value in names.items():
      found[value].append(name)
    by_value.append(found)
  old, new = by_value
  return {
    names[0]: new[value][0]
    for value, names in old.items()
    if len(names) == 1 and len(new.get(value, ())) == 1
  }
