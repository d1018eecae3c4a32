"""The states of a run on disk or in a bucket: saved in the background, verified when restored.

A state is a folder `<workdir>/checkpoints/<step>`, with a folder for each part (`params`,
`optimizer`, and `model_state` where the model has any). Its metadata holds a digest of every array
and what is needed to use the state alone (the model's config, class names). It also names the step
of the best state so far, which is kept as long as a kept state names it.

A damaged state is set aside; a state that cannot be read now is left as it is, and is an error.
"""

import logging
from typing import Any

from etils import epath

from mixer_jax import storage
from mixer_jax.checkpoints import pod_reading, state_files, state_metadata
from mixer_jax.checkpoints.digest import digest
from mixer_jax.checkpoints.run_states import folder_of, steps_in
from mixer_jax.checkpoints.state_format import stamp
from mixer_jax.checkpoints.state_metadata import DamagedError
from mixer_jax.errors import NotFiniteError, StorageError, UserError, one_line
from mixer_jax.parallel import processes
from mixer_jax.paths import is_remote

log = logging.getLogger(__name__)

_REFUSALS = (
  'No space left on device',
  'Disk quota exceeded',
  'File too large',
  'Read-only file system',
  'Permission denied',
  'Not a directory',
)
"""Messages of the operating system, searched for in the longer messages of libraries."""


class _BestDamagedError(Exception):
  """The best state that a state names is damaged."""


class Store:
  """Saves and restores the states of one run. All processes make the same calls.

  Args:
    workdir: folder of the run, local or `gs://bucket/folder`.
    keep: number of the newest states to keep, with the best states that they name.
  """

  def __init__(self, workdir, *, keep: int):
    self.directory = folder_of(workdir)
    self.keep = keep
    self._pending: tuple[int, Any] | None = None
    self._best: dict[int, int | None] = {}  # step -> the best step that its state names
    if processes.is_main():
      with storage.writing(self.directory):
        self.directory.mkdir(parents=True, exist_ok=True)
      self._remove_unfinished()

  def save(
    self, step: int, parts: dict[str, Any], metadata: dict[str, Any], *, best: int | None = None
  ) -> None:
    """Start to write `parts` (name -> tree of arrays) as the state of `step`.

    Returns when the arrays have been copied from the devices; they may then be donated. Waits
    first for an earlier save that is still being written.

    Args:
      step: number of steps taken.
      parts: as from `TrainState.parts`.
      metadata: stored with the state, JSON-able.
      best: step of the best state so far, this or an earlier one, which is to be kept.

    Raises:
      NotFiniteError: an array is not finite (nothing is written).
      StorageError: the disk or bucket refuses.
    """
    self.wait()
    digests, broken = digest(parts)
    if broken:
      raise NotFiniteError(
        f'the state of step {step} is not finite (first: {broken[0]}): it was not saved; '
        'lower the learning rate or check the data'
      )
    try:
      self._check_writable()
      response = state_files.start_write(
        self.directory / str(step), parts, _stored(metadata, step, best, digests)
      )
    except Exception as error:
      raise self._refused(step, error) from error
    self._pending = (step, response)
    self._best[step] = best

  def amend(self, step: int, metadata: dict[str, Any], *, best: int | None = None) -> None:
    """Replace the metadata of a saved state, after `wait`; its arrays are not written again.

    Args:
      step, metadata, best: as in `save`.

    Raises:
      StorageError: the disk or bucket refuses, or the state is not there any more.
    """
    self.wait()
    self._best[step] = best
    if processes.is_main():
      path = self.directory / str(step)
      try:
        digests = state_files.read_metadata(path)['digests']
        state_files.write_metadata(path, _stored(metadata, step, best, digests))
      except (OSError, DamagedError) as error:
        raise self._refused(step, error) from error
      self._remove_old(step)

  def wait(self) -> None:
    """Wait until the last save is written; raise its error if it failed."""
    if self._pending is None:
      return
    (step, response), self._pending = self._pending, None
    try:
      response.result()
    except Exception as error:
      self._remove_unfinished()
      raise self._refused(step, error) from error
    if processes.is_main():
      self._remove_old(step)

  def _remove_old(self, newest: int) -> None:
    """Remove what is older than the states to keep. What cannot be removed now is kept longer."""
    try:
      known = [step for step in self.steps() if step <= newest]
      named = {self._named_best(step) for step in known[-self.keep :]}
      for old in known[: -self.keep]:
        if old not in named:
          with storage.writing(self.directory / str(old)):
            (self.directory / str(old)).rmtree()
    except (OSError, StorageError) as error:
      log.warning('an old state was not removed: %s', one_line(error))

  def _named_best(self, step: int) -> int | None:
    if step not in self._best:  # saved by an earlier start
      try:
        self._best[step] = state_files.read_metadata(self.directory / str(step)).get('best_step')
      except DamagedError:
        self._best[step] = None
    return self._best[step]

  def steps(self) -> list[int]:
    """Steps that have a folder, oldest first. Only a restore finds out whether they are intact."""
    return steps_in(self.directory)

  def restore(
    self, abstract: dict[str, Any], *, with_best: bool = False
  ) -> tuple[int, dict[str, Any]] | None:
    """Return the newest state that verifies, as (step, parts); None in a new run.

    A damaged state is logged and skipped; once an older one is found, it is renamed to
    `<step>.damaged`.

    Args:
      abstract: parts with a `jax.ShapeDtypeStruct` with a sharding for each leaf.
      with_best: skip a state as well if the best state that it names is damaged: a run that resumes
        from an earlier one arrives at that best state again.

    Raises:
      UserError: there are states whose saves had finished, and none verifies, or none has its best
        state.
      StorageError: the newest that is not damaged cannot be read now; none is renamed.
    """
    damaged: dict[epath.Path, str] = {}
    found, has_lost, kept = None, False, []
    for step in reversed(processes.together(self.steps)):
      path = self.directory / str(step)
      try:
        if with_best:
          self._check_best(path, abstract, damaged)
        found = step, pod_reading.read(path, abstract)
        break
      except DamagedError as error:
        log.warning('checkpoint %s is damaged (%s): it is skipped', path, error)
        damaged[path] = str(error)
      except _BestDamagedError as error:
        log.warning('checkpoint %s is skipped: %s', path, error)
        kept.append(path)
      has_lost = has_lost or _is_finished(path)
    if found is None and kept:
      raise UserError(
        f'the best state of the run in {self.directory} is damaged, and no state from before it is '
        f'left: evaluate the newest, {kept[0]}, or train again in another --workdir'
      )
    if found is None and has_lost:
      raise UserError(
        f'every state in {self.directory} is damaged: take another --workdir, or remove this one'
      )
    if processes.is_main():
      for path in damaged:
        _set_aside(path)
    processes.barrier('damaged states are set aside')
    return found

  def _check_best(
    self, path: epath.Path, abstract: dict[str, Any], damaged: dict[epath.Path, str]
  ) -> None:
    """Check the weights of the best state that a state names; adds it to `damaged` if it is.

    Raises:
      _BestDamagedError: it is damaged.
      DamagedError: the state that names it has no readable metadata.
    """
    metadata = pod_reading.agreed(path, lambda: state_files.read_metadata(path))
    best = self.directory / str(metadata.get('best_step') or path.name)
    if best != path and best not in damaged:
      weights = {part: tree for part, tree in abstract.items() if part != 'optimizer'}
      try:
        pod_reading.read(best, weights)
      except DamagedError as error:
        damaged[best] = str(error)
    if best in damaged:
      raise _BestDamagedError(f'its best state, {best}, is damaged ({damaged[best]})')

  def read(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of one state that `abstract` names, as in `restore`.

    Raises:
      StorageError: it is damaged, or cannot be read now. Another start of the run resumes from an
        earlier state, if there is one.
    """
    try:
      return pod_reading.read(self.directory / str(step), abstract)
    except DamagedError as error:
      raise StorageError(
        f'checkpoint {self.directory / str(step)} is damaged ({error}): the same command resumes '
        'from a state before it'
      ) from error

  def metadata(self, step: int) -> dict[str, Any]:
    """Return the metadata that `save` was given with the state of this step."""
    return state_files.read_metadata(self.directory / str(step))

  def _check_writable(self):
    # Where Orbax cannot make a folder, its threads wait for it for five minutes.
    if processes.is_main():
      probe = self.directory / '.writable'
      probe.write_text('')
      probe.unlink()

  def _remove_unfinished(self):
    """Remove what interrupted saves have left."""
    if processes.is_main():
      try:
        for folder in self.directory.glob('*.orbax-checkpoint-tmp*'):
          folder.rmtree(missing_ok=True)
      except OSError as error:
        log.warning('what an interrupted save has left was not removed: %s', one_line(error))

  def _refused(self, step: int, error: Exception) -> StorageError:
    text = one_line(error, 10_000)
    known = [reason for reason in _REFUSALS if reason in text]
    return StorageError(
      f'the state of step {step} could not be written to {self.directory}: '
      f'{known[0] if known else text[:300]}; {self._left(step)}'
    )

  def _left(self, failed: int) -> str:
    """Return the end of a message about a save that failed: what the next start finds."""
    try:
      steps = [step for step in self.steps() if step != failed]
    except StorageError:
      return 'run the same command again to resume'
    if steps:
      return f'saved states are intact, the same command resumes from step {steps[-1]}'
    return 'there is no saved state, the same command starts at step 0'


def _stored(
  metadata: dict[str, Any], step: int, best: int | None, digests: dict[str, Any]
) -> dict[str, Any]:
  """Return the metadata of a state as it is stored."""
  metadata = {**stamp(), **metadata, 'step': step, 'best_step': best, 'digests': digests}
  return {**metadata, 'checksum': state_metadata.checksum(metadata)}


def _is_finished(path: epath.Path) -> bool:
  """Return True if a save finished. Orbax marks that by a file in buckets, which cannot rename."""
  marker = 'commit_success.txt' if is_remote(path) else state_files.METADATA
  return (path / marker).exists()


def _set_aside(path: epath.Path):
  if not path.exists():
    return
  aside = path.parent / f'{path.name}.damaged'
  with storage.writing(path):
    if aside.exists():
      aside.rmtree()
    path.rename(aside)
