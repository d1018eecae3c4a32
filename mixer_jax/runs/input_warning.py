"""The warning of a run whose devices wait for their input."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mixer_jax.data.data_config import DataConfig
from mixer_jax.parallel import processes

log = logging.getLogger(__name__)

_LIMIT = 0.1
"""Share of waiting, above which there is a warning."""
_AGAIN_SECONDS = 3600.0


class InputWarning:
  """Warns at the first logged interval of a start with too much waiting; then once an hour at most.

  Each process of a pod warns of its own devices.

  Args:
    data: how the images of the run are read.
    clock: returns seconds.
  """

  def __init__(self, data: DataConfig, clock: Callable[[], float] = time.monotonic):
    self._data, self._clock = data, clock
    self._quiet_until = -math.inf

  def check(self, row: Mapping[str, Any]) -> None:
    """Warn if it is time.

    Args:
      row: of a logged step, see `runlog.progress.Progress.step`.
    """
    share, now = row['input_wait'], self._clock()
    if share is not None and share > _LIMIT and now >= self._quiet_until:
      self._quiet_until = now + _AGAIN_SECONDS
      log.warning('%s', message(row['step'], share, row['images_per_second'], self._data))


def message(step: int, share: float, rate: float | None, data: DataConfig) -> str:
  """Return what is known and what helps, in one line.

  Args:
    share: of waiting, 0 to 1.
    rate: images/s of the run over all devices; None: unknown.
  """
  whose = '' if processes.is_alone() else f' of process {jax.process_index()}'
  text = f'step {step}: the devices{whose} waited for input {100 * share:.0f} % of the time'
  if rate is not None and share < 1:
    text += f': it delivers {rate:,.0f} images/s, and they can take {rate / (1 - share):,.0f}'
  changes = []
  if data.decode_scale != 'auto':
    changes.append('--config.data.decode_scale=auto (large photographs)')
  if data.randaugment_layers:
    changes.append('fewer --config.data.randaugment_layers')
  new_run = f'; for a new run also {" and ".join(changes)}' if changes else ''
  return (
    f'{text}; what helps: more --config.data.workers or --config.data.threads, with the same '
    f'results{new_run}; mixer-jax bench --what=input measures the input'
  )
