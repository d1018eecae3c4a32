"""A data set: records that can be read in any order."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

from mixer_jax.data.splits import Span
from mixer_jax.errors import UserError, printable

Record = dict[str, Any]
"""`image`: encoded bytes; `label`: int; `name`: name of the record in messages; and `accepted`,
the list of labels that count as correct, if the source has several."""


class MalformedError(Exception):
  """The bytes of a record do not fit the data set; the message continues after its name."""


@dataclasses.dataclass(frozen=True)
class Source:
  """Records of one split. `source[i]` is a `Record`; safe to use from several threads.

  A record that is malformed, or whose label is missing or unknown, raises `UserError`.
  """

  name: str
  """Data set and split, as in 'digits/test[:50%]'."""
  classes: tuple[str, ...]
  """Class names by label."""
  records: Sequence
  """Mappings with `image`, a label, and optionally `file_name`."""
  label: str = 'label'
  """Key of the label in `records`."""
  accepted: str | None = None
  """Key of the list of correct labels, as in ImageNet ReaL."""
  labels: tuple[int, ...] | None = None
  """New label for each label of `records`; None: unchanged."""
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  """Name -> value of what identifies records that are not files: version, split, sizes."""
  may_lack: bool = False
  """An image that cannot be read is left out of an evaluation; otherwise it ends it."""
  stored: tuple[Span, ...] = ()
  """Parts of stored splits that the records are; () if they are not known so."""

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: SupportsIndex) -> Record:
    index = index.__index__()
    try:
      stored = self.records[index]
    except MalformedError as error:
      raise UserError(f'record {self.name}#{index} {error}: prepare the data set again') from error
    name = stored.get('file_name', b'')
    name = name.decode(errors='replace') if isinstance(name, bytes) else str(name)
    name = printable(f'{self.name}#{index}' + (f' ({name})' if name else ''))
    record = {
      'image': stored['image'],
      'label': self._label_of(stored[self.label], name),
      'name': name,
    }
    if self.accepted:
      record['accepted'] = [self._label_of(label, name) for label in stored[self.accepted]]
    return record

  def contents(self) -> Mapping[str, Any]:
    """Return file below the folder -> bytes, or the facts of records that are not files.

    Equal for the same data in another place. Takes a look at each file.
    """
    sizes = getattr(self.records, 'sizes', None)
    return sizes() if sizes else self.facts

  def describe(self) -> str:
    """Return a text that must be the same wherever this source is opened."""
    return f'{self.name}, {len(self)} records of the classes {" ".join(self.classes)}'

  def renumbered(self, classes: Sequence[str], labels: Sequence[int]) -> 'Source':
    """Return the same records with other labels: class i becomes number `labels[i]`."""
    return dataclasses.replace(self, classes=tuple(classes), labels=tuple(labels))

  def _label_of(self, label: SupportsIndex, name: str) -> int:
    number = label.__index__()
    known = len(self.classes if self.labels is None else self.labels)
    if not 0 <= number < known:
      what = 'no label (-1)' if number == -1 else f'label {number}'
      raise UserError(
        f'record {name} has {what}, but the {known} classes are 0 to {known - 1}: take a split '
        'in which every example has a label, or prepare the data set again'
      )
    return number if self.labels is None else self.labels[number]
