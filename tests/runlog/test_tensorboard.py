"""Events as TensorBoard's own reader sees them."""

import contextlib
import resource

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.errors import OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

from mixer_jax.errors import StorageError
from mixer_jax.runlog.tensorboard import TensorBoardFile
from mixer_jax.storage import RETRY_SETTING


def scalars(folder) -> list[tuple[int, dict[str, float]]]:
  (path,) = folder.glob('events.out.tfevents.*')
  reader, events = PyRecordReader_New(str(path)), []
  with contextlib.suppress(OutOfRangeError):
    while True:
      reader.GetNext()  # checks the checksums
      events.append(Event.FromString(reader.record()))
  assert events.pop(0).file_version == 'brain.Event:2'
  assert all(event.wall_time > 1.7e9 for event in events)
  return [(e.step, {v.tag: v.simple_value for v in e.summary.value}) for e in events]


def test_tensorboard_reads_what_was_written(tmp_path):
  file = TensorBoardFile(tmp_path / 'made')
  file.scalars(1, {'loss': 0.5, 'eval/top1': 12.25})
  file.scalars(300_000_000, {'loss': float('inf')})
  file.flush()
  expected = [(1, {'loss': 0.5, 'eval/top1': 12.25}), (300_000_000, {'loss': float('inf')})]
  assert scalars(tmp_path / 'made') == expected


def test_a_full_disk_is_named_and_the_events_before_are_intact(tmp_path, monkeypatch):
  monkeypatch.setenv(RETRY_SETTING, '0')
  file = TensorBoardFile(tmp_path)
  file.scalars(1, {'loss': 0.5})
  (path,) = tmp_path.iterdir()
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, limits[1]))
    with pytest.raises(StorageError, match=r'events\.out\.tfevents\S* cannot be written now: '):
      file.scalars(2, {'loss': 0.25})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert scalars(tmp_path) == [(1, {'loss': 0.5})]
