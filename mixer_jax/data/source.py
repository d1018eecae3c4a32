"""What a data set is here: records that can be read in any order."""

import dataclasses
from collections.abc import Sequence
from typing import Any, SupportsIndex

from mixer_jax.errors import UserError

Record = dict[str, Any]
"""`image`: encoded bytes; `label`: int; `name`: what to call the record in a message; and
`accepted`, the list of labels that count as right, where the source has several."""


class MalformedError(Exception):
  """The bytes of a record are not what the data set says; the message goes on from its name."""


@dataclasses.dataclass(frozen=True)
class Source:
  """Records of one split. `source[i]` is a `Record`; safe to use from several threads.

  A record that is malformed, without a label, or with one that no class has, raises `UserError`.
  """

  name: str
  """Data set and split, as in 'digits/test[:50%]'."""
  classes: tuple[str, ...]
  """Class names by label."""
  records: Sequence
  """Mappings with `image`, a label, and perhaps `file_name`."""
  label: str = 'label'
  """What the label is called in `records`."""
  accepted: str | None = None
  """What the list of right labels is called, as in ImageNet ReaL."""
  labels: tuple[int, ...] | None = None
  """By the label of `records`, the one that is given instead."""

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: SupportsIndex) -> Record:
    index = index.__index__()
    try:
      stored = self.records[index]
    except MalformedError as error:
      raise UserError(f'record {self.name}#{index} {error}: prepare the data set anew') from error
    name = stored.get('file_name', b'')
    name = name.decode(errors='replace') if isinstance(name, bytes) else str(name)
    name = f'{self.name}#{index}' + (f' ({name})' if name else '')
    record = {
      'image': stored['image'],
      'label': self._given(stored[self.label], name),
      'name': name,
    }
    if self.accepted:
      record['accepted'] = [self._given(label, name) for label in stored[self.accepted]]
    return record

  def describe(self) -> str:
    """What must be the same wherever this source is opened."""
    return f'{self.name}, {len(self)} records of the classes {" ".join(self.classes)}'

  def renumbered(self, classes: Sequence[str], labels: Sequence[int]) -> 'Source':
    """The same records with other labels: class i of this source is number `labels[i]`."""
    return dataclasses.replace(self, classes=tuple(classes), labels=tuple(labels))

  def _given(self, label: SupportsIndex, name: str) -> int:
    number = label.__index__()
    known = len(self.classes if self.labels is None else self.labels)
    if not 0 <= number < known:
      what = 'no label (-1)' if number == -1 else f'label {number}'
      raise UserError(
        f'record {name} has {what}, where the {known} classes are 0 to {known - 1}: take a split '
        'in which every example has a label, or prepare the data set anew'
      )
    return number if self.labels is None else self.labels[number]
