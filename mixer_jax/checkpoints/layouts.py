"""Weight files <-> params: the names and axes that authors and hubs store a Mixer under.

A layout says how a parameter is called in a file and how its axes are turned. It is
recognised by the names, and the configuration is read off the shapes.
"""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from etils import epath

from mixer_jax.checkpoints.containers import Container, Spec, open_container
from mixer_jax.errors import UserError
from mixer_jax.models import MixerConfig, ModelConfig, parameters, variant_of
from mixer_jax.paths import user_path

_WRAPPERS = ('opt/target/', 'params/')
_TOLD = 2000
"""Faults that are told: all that a Mixer can have, not all that a file can hold."""

_LEGACY = (
  (re.compile(r'^stem/'), 'embedding/'),
  (re.compile(r'^pre_head_layer_norm/'), 'Mixer/encoder_norm/'),
  (re.compile(r'^MixerBlock_'), 'Mixer/encoderblock_'),
  (re.compile(r'_mixing/Dense_0/(kernel|bias)$'), r'_mixing_phase_0/\g<1>1'),
  (re.compile(r'_mixing/Dense_1/(kernel|bias)$'), r'_mixing_phase_0/\g<1>2'),
)
_TIMM = (
  (re.compile(r'^stem/'), 'stem/proj/'),
  (re.compile(r'^pre_head_layer_norm/'), 'norm/'),
  (re.compile(r'^MixerBlock_'), 'blocks/'),
  (re.compile(r'/LayerNorm_0/'), '/norm1/'),
  (re.compile(r'/LayerNorm_1/'), '/norm2/'),
  (re.compile(r'/(token|channel)_mixing/'), r'/mlp_\1s/'),
  (re.compile(r'/Dense_0/'), '/fc1/'),
  (re.compile(r'/Dense_1/'), '/fc2/'),
  (re.compile(r'/(kernel|scale)$'), '/weight'),
  (re.compile(r'/'), '.'),
)


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a Mixer's parameters are stored."""

  name: str
  suffix: str
  """Of the files that are written in it; '': it is only read."""
  block: re.Pattern
  """Begins the stored names of a block's arrays and captures its number."""
  rename: Callable[[str], str]
  """Published name -> stored name."""
  axes: Callable[[str], tuple[int, ...]]
  """Published name -> the published axis at each stored one; (): they are the same."""
  leading_ones: bool = False
  """Whether arrays may have axes of 1 before their own."""

  def seen(self, shape: tuple[int, ...], rank: int | None) -> tuple[int, ...]:
    """A stored shape without the leading ones that an array of this rank may have."""
    extra = len(shape) - rank if self.leading_ones and rank is not None else 0
    return shape[extra:] if extra > 0 and set(shape[:extra]) == {1} else shape

  def stored_shape(self, name: str, shape: Sequence) -> tuple:
    """Shape of a parameter -> shape of its stored array."""
    return tuple(shape[axis] for axis in self.axes(name)) or tuple(shape)

  def published_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The reverse; a shape of another rank stays as it is."""
    axes = self.axes(name)
    return tuple(shape[axis] for axis in np.argsort(axes)) if len(axes) == len(shape) else shape

  def published(self, name: str, array: np.ndarray) -> np.ndarray:
    """A stored array as the parameter, float32; a view where it can be."""
    axes = self.axes(name)
    turned = array.transpose(np.argsort(axes)) if axes else array
    with np.errstate(over='ignore'):  # what is too large is infinite then, and told
      return turned.astype(np.float32, copy=False)

  def stored(self, name: str, array: np.ndarray) -> np.ndarray:
    """The reverse, with its bytes in order."""
    axes = self.axes(name)
    return np.ascontiguousarray(array.transpose(axes) if axes else array, np.float32)


def _renamed(rules) -> Callable[[str], str]:
  def rename(name: str) -> str:
    for pattern, replacement in rules:
      name = pattern.sub(replacement, name)
    return name

  return rename


def _same_axes(name: str) -> tuple[int, ...]:
  return ()


def _timm_axes(name: str) -> tuple[int, ...]:
  if not name.endswith('kernel'):
    return ()
  return (3, 2, 0, 1) if name.startswith('stem') else (1, 0)


_ALL = (
  Layout('modern', '.npz', re.compile(r'MixerBlock_([0-9]{1,6})/'), str, _same_axes),
  Layout(
    'legacy',
    '',
    re.compile(r'Mixer/encoderblock_([0-9]{1,6})/'),
    _renamed(_LEGACY),
    _same_axes,
    leading_ones=True,
  ),
  Layout(
    'timm', '.safetensors', re.compile(r'blocks\.([0-9]{1,6})\.'), _renamed(_TIMM), _timm_axes
  ),
)
LAYOUTS = {layout.name: layout for layout in _ALL}
"""modern: the authors' published files. legacy: those of their first code. timm: timm and hubs."""


@dataclasses.dataclass(frozen=True)
class Weights:
  """What a weights file holds."""

  config: MixerConfig
  params: dict
  """float32, on the host, in order of depth."""
  layout: str
  dtypes: tuple[str, ...]
  """As stored."""


def read(path) -> Weights:
  """The Mixer in a `.npz` or `.safetensors` file of any known layout.

  Raises:
    UserError: not such a file; or arrays are missing, superfluous, of the wrong
      shape or dtype, or not finite: all of them are listed.
  """
  path = user_path(path)
  with open_container(path) as container:
    try:
      return _read(container)
    except UserError as error:
      if str(error).startswith(str(path)):
        raise
      raise UserError(f'{path}: {error}') from error


def save(path, config: ModelConfig, params: Mapping, layout: str | None = None) -> None:
  """Writes params as a weights file: `modern` in an `.npz`, `timm` in a `.safetensors`.

  The file appears when it is whole. Read again, it gives the same bits. GELU, input
  range and the like are not stored by either layout.

  Args:
    path: local or `gs://…`; its suffix chooses the layout where none is given.
    config: what the params belong to.
    params: nested dict of float arrays under the published names.
    layout: 'modern' or 'timm'.

  Raises:
    UserError: no such layout, another suffix than the layout's, a model that is no
      Mixer, or params that are not those of `config`, or not finite.
  """
  path = user_path(path)
  chosen = layout_to_write(path, layout)
  if not isinstance(config, MixerConfig):
    raise UserError(f'{path}: the layouts of weights files are of Mixers, not {variant_of(config)}')
  flat = {name: np.asarray(leaf) for name, leaf in parameters.flatten(dict(params)).items()}
  told = parameters.faults(parameters.expected(config), {n: a.shape for n, a in flat.items()})
  told += [f'{name} is not finite' for name, array in flat.items() if not _is_finite(array)]
  if told:
    raise UserError(f'{path} was not written: {"; ".join(told)}')
  arrays = {
    chosen.rename(name): chosen.stored(name, flat[name]) for name in parameters.expected(config)
  }
  aside = path.parent / f'.{path.stem}.{os.getpid()}{path.suffix}'
  try:
    _write(aside, arrays)
    aside.replace(path)
  except OSError as error:
    raise UserError(f'{path} was not written: {error.strerror or error}') from error
  finally:
    with contextlib.suppress(OSError):
      aside.unlink(missing_ok=True)


def _write(path: epath.Path, arrays: dict[str, np.ndarray]) -> None:
  with path.open('wb') as file:
    if path.suffix == '.npz':
      np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
      return
    import safetensors.numpy

    about = {'format': 'pt'}  # what torch's users ask for
    if '://' in str(path):
      file.write(safetensors.numpy.save(arrays, metadata=about))
      return
  mode = path.stat().mode  # the library makes a file that only its owner can read
  try:
    safetensors.numpy.save_file(arrays, str(path), metadata=about)
  except safetensors.SafetensorError as error:
    raise OSError(0, ' '.join(str(error).split())) from error
  os.chmod(path, mode & 0o777)


def layout_to_write(path: epath.Path, name: str | None = None) -> Layout:
  """The layout of this name, or that of the path's suffix; `UserError` if they do not fit."""
  written = {layout.name: layout for layout in LAYOUTS.values() if layout.suffix}
  if name is not None and name not in written:
    raise UserError(f'no layout {name!r} to write: there are {", ".join(written)}')
  for layout in written.values():
    if path.suffix == layout.suffix and name in (None, layout.name):
      return layout
  ways = ', '.join(f'*{layout.suffix} ({layout.name})' for layout in written.values())
  raise UserError(f'{path}: weights are written as {ways}')


def _read(container: Container) -> Weights:
  keys = _unwrap(container.specs)
  layout, num_blocks = _recognise(keys)
  letters = parameters.letters(num_blocks)
  stored_name = {name: layout.rename(name) for name in letters}
  rank = {stored_name[name]: len(shape) for name, shape in letters.items()}
  specs = {name: container.specs[key] for name, key in keys.items()}
  found = {name: layout.seen(spec.shape, rank.get(name)) for name, spec in specs.items()}

  sizes = parameters.read_sizes(
    num_blocks,
    {n: layout.published_shape(n, found[s]) for n, s in stored_name.items() if s in found},
  )
  known = {letter: letter for letter in 'PSCTFN'} | {'3': 3} | sizes
  wanted = {
    stored_name[name]: layout.stored_shape(name, [known[letter] for letter in shape])
    for name, shape in letters.items()
  }
  faults = parameters.faults(wanted, found)
  faults += [
    f'{name} holds {specs[name].dtype}, expected floats'
    for name in wanted
    if name in specs and not specs[name].is_float
  ]
  side = math.isqrt(sizes.get('S', 0))
  if side**2 != sizes.get('S', 0):
    faults.append(f'{sizes["S"]} tokens do not fill a square image')

  params = {}
  for name, stored in stored_name.items():
    if found.get(stored) != wanted[stored] or not specs[stored].is_float:
      continue
    array = layout.published(name, container.read(keys[stored]).reshape(wanted[stored]))
    if not _is_finite(array):
      faults.append(f'{stored} is not finite')
    if not faults:
      params[name] = array
  if faults:
    more = f'; and {len(faults) - _TOLD} more' if len(faults) > _TOLD else ''
    raise UserError('; '.join(faults[:_TOLD]) + more)
  config = MixerConfig(
    patch_size=sizes['P'],
    num_blocks=num_blocks,
    hidden_dim=sizes['C'],
    tokens_mlp_dim=sizes['T'],
    channels_mlp_dim=sizes['F'],
    image_size=sizes['P'] * side,
    num_classes=sizes['N'],
  )
  dtypes = tuple(sorted({specs[stored].dtype for stored in wanted}))
  return Weights(config, parameters.unflatten(params), layout.name, dtypes)


def _unwrap(specs: Mapping[str, Spec]) -> dict[str, str]:
  """Name in its layout -> name in the file, which may put a prefix before all."""
  keys = {name: name for name in specs}
  for prefix in _WRAPPERS:
    if any(name.startswith(prefix) for name in keys):
      kept = [name for name in keys if not _is_beside(name, prefix)]
      twice = [name for name in kept if prefix + name in keys]
      if twice:
        raise UserError(f'array {twice[0]} is in it twice: also as {prefix}{twice[0]}')
      keys = {name.removeprefix(prefix): keys[name] for name in kept}
  return keys


def _is_beside(name: str, prefix: str) -> bool:
  """Arrays of an optimizer may lie beside wrapped params."""
  return name.startswith('opt/') and not name.startswith(prefix)


def _recognise(names: Mapping[str, str]) -> tuple[Layout, int]:
  """The layout that most of these names belong to, and the number of blocks."""
  best = (0, next(iter(LAYOUTS.values())), 0)
  for layout in LAYOUTS.values():
    indices = {int(match[1]) for name in names if (match := layout.block.match(name))}
    if indices:
      # One strange number must not make thousands of blocks missing.
      all_told = max(indices) + 1
      num_blocks = all_told if all_told <= 2 * len(indices) else len(indices)
      score = sum(layout.rename(name) in names for name in parameters.letters(num_blocks))
      best = max(best, (score, layout, num_blocks), key=lambda found: found[0])
  score, layout, num_blocks = best
  if not score:
    some = ', '.join(list(names)[:3]) or 'no arrays at all'
    raise UserError(f'these are not the weights of a Mixer: it holds {some}')
  return layout, num_blocks


def _is_finite(array: np.ndarray) -> bool:
  with np.errstate(all='ignore'):
    # A sum is one pass and no copy; only where it overflows does it take a closer look.
    return bool(np.isfinite(array.sum()) or np.isfinite(array).all())
