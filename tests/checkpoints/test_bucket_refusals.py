"""A bucket that refuses any kind of call with any status: one line, nothing taken for missing."""

import json
import os
import pathlib
import subprocess
import sys

from tests.helpers import reference

_ROOT = pathlib.Path(__file__).parents[2]

_CALLS = """
import json
import os
import re
import sys

from tests.helpers.fake_gcs import FakeGcs

weights = open(sys.argv[1], 'rb').read()
objects = {'w.npz': weights, 'run/config.json': b'{}', 'run/checkpoints/6/x': b'x'}
with FakeGcs('bucket', objects) as gcs:
  os.environ |= gcs.environment
  os.environ['MIXER_JAX_RETRY_SECONDS'] = '0'

  import gcsfs.retry
  from etils import epath
  import mixer_jax
  from mixer_jax import paths, storage
  from mixer_jax.errors import StorageError, UserError
  gcsfs.retry.min = lambda *_: 0.0  # its pauses: 31 seconds for each call
  import logging
  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)

  KINDS = {
    'list': lambda method, path: method == 'GET' and re.search(r'/o(\\?|$)', path),
    'look': lambda method, path: method == 'GET' and '/o/' in path and 'alt=media' not in path,
    'read': lambda method, path: method == 'GET' and 'alt=media' in path,
    'write': lambda method, path: method == 'POST',
    'all': lambda method, path: True,
  }
  CALLS = {
    'exists': lambda: storage.exists('gs://bucket/w.npz'),
    'names': lambda: storage.names_in('gs://bucket/run/checkpoints'),
    'file': lambda: storage.read_file('gs://bucket/run/config.json').decode(),
    'load': lambda: mixer_jax.load('gs://bucket/w.npz')[0].num_classes,
    'write': lambda: paths.write_whole('gs://bucket/new', b'x'),
    'nobucket': lambda: paths.write_whole('gs://nobucket/new', b'x'),
  }
  found = {}
  for status in (0, 401, 403, 404, 429, 503):
    for kind, applies in KINDS.items():
      gcs.refuse = lambda method, path: status if applies(method, path) else None
      for name, call in CALLS.items():
        epath.backend.fsspec_backend.fs('gs://').invalidate_cache()
        try:
          result = call()
        except StorageError as error:
          result = 'unread: ' + str(error)
        except UserError as error:
          result = 'wrong: ' + str(error)
        except FileNotFoundError as error:
          result = f'missing: {error.filename}'
        except Exception as error:
          result = f'TRACEBACK: {type(error).__name__} {error}'
        found[f'{status} {kind} {name}'] = result
  print(json.dumps(found))
"""


def test_a_bucket_that_refuses_calls_is_named_and_nothing_is_taken_for_missing():
  done = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', _CALLS, str(reference.DATA / 'mixer_tiny.npz')],
    cwd=_ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  assert {name: said for name, said in found.items() if 'TRACEBACK' in str(said)} == {}
  assert all('\n' not in str(said) for said in found.values())
  for status in (401, 403, 429, 503):
    for name in ('exists', 'names', 'file', 'load', 'write'):
      assert found[f'{status} all {name}'].startswith('unread: '), (status, name)
    assert found[f'{status} list names'].startswith('unread: ')
    assert found[f'{status} read file'].startswith('unread: ')
    assert found[f'{status} write write'].startswith('unread: ')
    # What the refused call is not needed for works.
    assert found[f'{status} list load'] == found['0 all load'] == 7
    assert found[f'{status} write names'] == ['6']
  assert found['404 all exists'] is False
  assert found['404 all names'] == []
  assert found['404 all load'].startswith('wrong: no weights file gs://bucket/w.npz')
  assert found['0 all nobucket'] == 'missing: gs://nobucket/new'
