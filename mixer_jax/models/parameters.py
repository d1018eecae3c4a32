"""The table that describes the parameters of a model family, and what follows from a table alone.

A table maps the name of a parameter to its axes, its initialiser and whether weight decay applies:

    {
      'stem/kernel': Param('PP3C', lecun_normal, decay=True),
      'Block_*/norm/scale': Param('C', ones),
      'head/bias': Param('N', head_bias),
    }

A name is the path in the tree of params, joined by `/`; `*` stands for the number of a block, and
neighbouring rows with the same block name are repeated block by block. Axes are written as one
letter each, whose size the config knows, or as the digit of a fixed size. Rows are in the order of
depth. The order matters: row i is drawn from `fold_in(key, i)`.

A table of the same form describes the model's state, such as the running statistics of BatchNorm.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, traverse_util

from mixer_jax.errors import UserError

Shape = tuple[int, ...]
Sizes = Mapping[str, int]
"""Letter of an axis -> its size."""
Initializer = Callable[[Any, jax.Array, Shape], jax.Array]
"""(config, key, shape) -> float32 array."""

_LISTED = 3
"""Maximum number of faults listed in the error of `check`."""


def lecun_normal(config, key: jax.Array, shape: Shape) -> jax.Array:
  """Normal values with a variance of 1 / fan-in, truncated at two standard deviations."""
  del config
  return linen.initializers.lecun_normal()(key, shape, jnp.float32)


def zeros(config, key: jax.Array, shape: Shape) -> jax.Array:
  """Zeros."""
  del config, key
  return jnp.zeros(shape, jnp.float32)


def ones(config, key: jax.Array, shape: Shape) -> jax.Array:
  """Ones."""
  del config, key
  return jnp.ones(shape, jnp.float32)


def head_bias(config, key: jax.Array, shape: Shape) -> jax.Array:
  """The config's `head_bias` for every class."""
  del key
  return jnp.full(shape, config.head_bias, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Param:
  """One row of a table.

  Attributes:
    axes: a letter or digit per axis.
    init: initialiser.
    decay: whether the optimizer's weight decay applies.
  """

  axes: str
  init: Initializer = lecun_normal
  decay: bool = False


Table = Mapping[str, Param]


class Leaf(NamedTuple):
  """A parameter of one model."""

  row: Param
  shape: Shape


def rows(table: Table, num_blocks: int) -> dict[str, tuple[Param, int | None]]:
  """Name -> (row, number of its block or None) for a model with this many blocks."""
  listed: dict[str, tuple[Param, int | None]] = {}
  block_of = lambda name: name.partition('*')[0] if '*' in name else ''
  for block, names in itertools.groupby(table, key=block_of):
    group = list(names)
    for i in range(num_blocks) if block else (None,):
      listed.update((name.replace('*', str(i)), (table[name], i)) for name in group)
  return listed


def table_faults(
  table: Any, letters: Iterable[str], own_sizes: bool, has_blocks: bool
) -> Iterator[str]:
  """Yield what is wrong with a table; each text continues the name of the table.

  Args:
    letters: those whose size is the same in the whole model.
    own_sizes: True if blocks have sizes of further letters.
    has_blocks: True if the config has a number of blocks.
  """
  if not isinstance(table, Mapping):
    yield f' must be a mapping from names to Param, not a {type(table).__name__}'
    return
  known = set(letters)
  for name, row in table.items():
    if not isinstance(row, Param) or not isinstance(row.axes, str):
      yield f'[{name!r}] must be a Param with a text of axes, not {row!r}'
      continue
    in_block = '*' in name
    if in_block and not has_blocks:
      yield f'[{name!r}] is a row of blocks, but Config has no field or property num_blocks'
    if in_block and own_sizes:
      continue
    for letter in row.axes:
      if letter not in known and not letter.isdecimal():
        yield f'[{name!r}]: SIZES has no letter {letter!r} of its axes {row.axes!r}'


def leaves(table: Table, sizes: Sizes, blocks: Sequence[Sizes] = ()) -> dict[str, Leaf]:
  """Name -> row and shape of every parameter.

  Args:
    sizes: of the letters that mean the same in the whole model.
    blocks: for each block, the sizes of letters of its own. A block without the letter of a row
      has no such parameter.
  """
  listed = {}
  for name, (row, block) in rows(table, len(blocks)).items():
    known = sizes if block is None else {**sizes, **blocks[block]}
    if all(letter in known or letter.isdecimal() for letter in row.axes):
      listed[name] = Leaf(row, tuple(known.get(letter) or int(letter) for letter in row.axes))
  return listed


def read_sizes(
  table: Table, letters: Iterable[str], num_blocks: int, found: Mapping[str, Shape]
) -> dict[str, int]:
  """Return the size of each letter that most of the arrays agree on.

  A letter that no array has is left out.

  Args:
    letters: those to be read.
    found: name -> shape of the arrays.
  """
  votes: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
  for name, (row, _) in rows(table, num_blocks).items():
    if len(found.get(name, ())) == len(row.axes):
      for letter, size in zip(row.axes, found[name], strict=True):
        votes[letter][size] += size > 0
  return {k: votes[k].most_common(1)[0][0] for k in letters if votes[k].total()}


def row_finder(table: Table) -> Callable[[str], tuple[str, Param] | None]:
  """Return a function from a path to (name in the table, row) of the parameter that it ends in.

  A path may begin with other parts, as those of the optimizer's moments do; where several names
  fit, the longest is taken. It returns None where none fits.
  """
  names = list(table)
  ends = (f'({re.escape(name)})'.replace(r'\*', '[0-9]+') for name in names)
  expression = re.compile(f'(?:.*?/)??(?:{"|".join(ends)})')

  def find(path: str) -> tuple[str, Param] | None:
    match = expression.fullmatch(path)
    if match is None or match.lastindex is None:
      return None
    name = names[match.lastindex - 1]
    return name, table[name]

  return find


def flatten(tree: Any) -> dict[str, Any]:
  """{'stem': {'kernel': a}} -> {'stem/kernel': a}, for a tree with leaves of any kind."""
  paths, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {path_text(path): leaf for path, leaf in paths}


def path_text(path: tuple) -> str:
  """The path of a leaf as its name: keys joined by `/`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def unflatten(arrays: Mapping[str, Any]) -> dict:
  """{'stem/kernel': a} -> {'stem': {'kernel': a}}."""
  return traverse_util.unflatten_dict(dict(arrays), sep='/')


def check(config, wanted: Mapping[str, Shape], params: Any, model: str, what: str) -> None:
  """Check names and shapes of params, or of the model state.

  Args:
    model: what it is called, such as 'a Mixer'.
    what: 'params' or 'state'.

  Raises:
    UserError: listing the first few faults.
  """
  found = {name: getattr(leaf, 'shape', ()) for name, leaf in flatten(params).items()}
  listed = faults(wanted, found, model)
  if listed:
    more = f' and {len(listed) - _LISTED} more' if len(listed) > _LISTED else ''
    verb = 'are' if what == 'params' else 'is'
    pronoun = 'those' if what == 'params' else 'that'
    raise UserError(f'{what} {verb} not {pronoun} of {config}: {"; ".join(listed[:_LISTED])}{more}')


def faults(wanted: Mapping[str, Any], found: Mapping[str, Shape], model: str) -> list[str]:
  """List missing, superfluous and wrongly shaped arrays; [] if there are none.

  Args:
    wanted: name -> shape, in which a letter stands for a size that is not known.
    model: what the arrays should be of, such as 'a Mixer'.
  """
  listed = [f'{name} {_text(wanted[name])} is missing' for name in wanted if name not in found]
  listed += [
    f'{name} {_text(shape)} is not part of {model}'
    for name, shape in found.items()
    if name not in wanted
  ]
  listed += [
    f'{name} has shape {_text(found[name])}, expected {_text(shape)}'
    for name, shape in wanted.items()
    if name in found and not _fits(found[name], shape)
  ]
  return listed


def _fits(found: Shape, wanted: Sequence) -> bool:
  """Return True if a shape is as wanted; an axis whose size is not known may have any."""
  return len(found) == len(wanted) and all(
    isinstance(size, str) or size == other for size, other in zip(wanted, found, strict=True)
  )


def _text(shape: Iterable) -> str:
  """(3, 4) as Python writes it; unknown sizes appear as letters."""
  parts = [str(size) for size in shape]
  return f'({parts[0]},)' if len(parts) == 1 else f'({", ".join(parts)})'
