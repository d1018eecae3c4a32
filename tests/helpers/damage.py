"""Faults of a run at rest: its states, its metrics and its cache are damaged between two starts."""

import os
import pathlib
import random
import shutil
from collections.abc import Callable
from typing import Protocol

from etils import epath

from mixer_jax.checkpoints import state_files


class Place(Protocol):
  """The folders of a run, and those of its states that were damaged since its last start."""

  workdir: pathlib.Path
  cache: pathlib.Path
  damaged: set[pathlib.Path]

  def states(self) -> list[pathlib.Path]: ...


def _file_of(state: pathlib.Path, rng: random.Random) -> pathlib.Path:
  files = sorted(path for path in state.rglob('*') if path.is_file() and path.stat().st_size)
  return rng.choice(files)


def flip(path: pathlib.Path, rng: random.Random) -> None:
  data = bytearray(path.read_bytes())
  data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  path.write_bytes(data)


def cut(path: pathlib.Path, rng: random.Random) -> None:
  os.truncate(path, rng.randrange(path.stat().st_size))


def _best_of(state: pathlib.Path) -> pathlib.Path:
  metadata = state_files.read_metadata(epath.Path(state))
  return state.parent / str(metadata.get('best_step') or state.name)


def _in_a_state(place: Place, rng: random.Random, change: Callable, *, is_best=False) -> bool:
  """Change a state, if one remains that is intact with the best state that it names."""
  states = place.states()
  chosen = {_best_of(states[-1])} & set(states) if is_best and states else states
  for state in rng.sample(sorted(chosen), len(chosen)):
    others = [other for other in states if other != state]
    if any(_best_of(other) in others for other in others):
      change(state, rng)
      place.damaged.add(state)
      return True
  return False


def _in_metrics(place: Place, change: Callable[[pathlib.Path], object]) -> bool:
  path = place.workdir / 'metrics.jsonl'
  if not path.exists() or not path.stat().st_size:
    return False
  change(path)
  return True


def _damage_programs(place: Place, rng: random.Random) -> bool:
  programs = sorted(place.cache.glob('compiled/*-cache'))
  for path in programs:
    flip(path, rng)
  return bool(programs)


def _cut_index(place: Place, rng: random.Random) -> bool:
  indices = sorted(place.cache.glob('tfrecords/*'))
  for path in indices:
    cut(path, rng)
  return bool(indices)


def _leave_unfinished(place: Place, rng: random.Random) -> bool:
  states = place.states()
  if not states:
    return False
  newer = states[-1].with_name(str(int(states[-1].name) + 1))
  newer.mkdir(exist_ok=True)  # an empty "state"
  shutil.copytree(states[-1], states[-1].with_name(f'{rng.random()}.orbax-checkpoint-tmp'))
  return True


AT_REST: dict[str, Callable[[Place, random.Random], bool]] = {
  'flipped state': lambda place, rng: _in_a_state(
    place, rng, lambda state, rng: flip(_file_of(state, rng), rng)
  ),
  'cut state': lambda place, rng: _in_a_state(
    place, rng, lambda state, rng: cut(_file_of(state, rng), rng)
  ),
  'deleted file of a state': lambda place, rng: _in_a_state(
    place, rng, lambda state, rng: _file_of(state, rng).unlink()
  ),
  'deleted state': lambda place, rng: _in_a_state(
    place, rng, lambda state, _: shutil.rmtree(state)
  ),
  'flipped best state': lambda place, rng: _in_a_state(
    place, rng, lambda state, rng: flip(_file_of(state, rng), rng), is_best=True
  ),
  'cut metrics': lambda place, rng: _in_metrics(place, lambda path: cut(path, rng)),
  'emptied metrics': lambda place, rng: _in_metrics(place, lambda path: path.write_bytes(b'')),
  'NULs in metrics': lambda place, rng: _in_metrics(
    place, lambda path: path.write_bytes(path.read_bytes() + b'\0' * rng.randrange(1, 5000))
  ),
  'damaged programs': _damage_programs,
  'cut index': _cut_index,
  'left unfinished': _leave_unfinished,
}
"""Faults between two starts; each returns False where there is nothing to damage yet."""
