"""A fake Google Cloud Storage of one bucket in memory, on 127.0.0.1.

Speaks what gcsfs and TensorStore ask of the JSON API and nothing more: whatever
else comes is answered 400 and kept in `FakeGcs.unknown`, for a test to look at.
"""

import contextlib
import email
import email.policy
import functools
import itertools
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

# Pages may be shorter than requested; short ones make the clients request more.
_PAGE = 5
_TIME = '2025-01-01T00:00:00.000Z'


class _Object(NamedTuple):
  data: bytes
  generation: int


class _Refusal(Exception):
  """An answer other than success: its HTTP status."""

  def __init__(self, status: int):
    super().__init__(status)
    self.status = status


class FakeGcs:
  """Serves while it is entered. Pass `environment` to the processes that use it.

  Args:
    bucket: name of the only bucket there is.
    objects: name -> content of what it holds at first.
  """

  def __init__(self, bucket: str, objects: dict[str, bytes] | None = None):
    self.bucket = bucket
    self.unknown: list[str] = []
    self.refuse: Callable[[str, str], int | None] = lambda method, path: None
    """(method, path) of a request -> status to answer instead."""
    self._lock = threading.Lock()
    self._generations = itertools.count(1)
    self._objects: dict[str, _Object] = {}
    for name, data in (objects or {}).items():
      self.write(name, data)
    self._server = ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(_Handler, self))
    # The number is the interval, in seconds, at which it checks whether to stop.
    self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

  def __enter__(self) -> 'FakeGcs':
    self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    self._server.shutdown()
    self._server.server_close()
    self._thread.join()

  @property
  def environment(self) -> dict[str, str]:
    """Variables that direct the clients here, without credentials and proxies."""
    url = f'http://127.0.0.1:{self._server.server_port}'
    return {
      'STORAGE_EMULATOR_HOST': url,
      'FSSPEC_GS_TOKEN': 'anon',
      'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # would ask for the bucket's kind by gRPC
      'TENSORSTORE_GCS_HTTP_URL': url,
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'none',
      'no_proxy': '127.0.0.1',
    }

  @property
  def objects(self) -> dict[str, bytes]:
    """Return name -> content."""
    return {name: found.data for name, found in self.resources()}

  def write(self, name: str, data: bytes, wanted: dict[str, str] | None = None) -> _Object:
    """Store an object if the existing one fulfils the preconditions in `wanted`."""
    with self._lock:
      self._check(name, wanted or {})
      self._objects[name] = _Object(data, next(self._generations))
      return self._objects[name]

  def read(self, name: str, wanted: dict[str, str]) -> _Object:
    with self._lock:
      self._check(name, wanted, unchanged=304)
      return self._get(name)

  def delete(self, name: str) -> None:
    with self._lock:
      self._get(name)
      del self._objects[name]

  def move(self, name: str, to: str) -> _Object:
    with self._lock:
      found = self._get(name)
      del self._objects[name]
      self._objects[to] = _Object(found.data, next(self._generations))
      return self._objects[to]

  def resources(self) -> list[tuple[str, _Object]]:
    with self._lock:
      return sorted(self._objects.items())

  def _get(self, name: str) -> _Object:
    if name not in self._objects:
      raise _Refusal(404)
    return self._objects[name]

  def _check(self, name: str, wanted: dict[str, str], unchanged: int = 412) -> None:
    """Generation 0 means that there is no object."""
    generation = str(self._objects[name].generation if name in self._objects else 0)
    if wanted.get('ifGenerationMatch', generation) != generation:
      raise _Refusal(412)
    if wanted.get('ifGenerationNotMatch') == generation:
      raise _Refusal(unchanged)


class _Handler(BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  disable_nagle_algorithm = True

  def __init__(self, gcs: FakeGcs, *args):
    self._gcs = gcs
    super().__init__(*args)

  def handle(self):
    with contextlib.suppress(ConnectionError):  # gcsfs sends two requests at once and may drop one
      super().handle()

  def do_GET(self):
    self._answer()

  do_POST = do_DELETE = do_GET

  def log_message(self, *_):
    pass

  def _answer(self) -> None:
    body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
    url = urlsplit(self.path)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    try:
      if status := self._gcs.refuse(self.command, self.path):
        raise _Refusal(status)
      for method, pattern, act in _ROUTES:
        match = re.fullmatch(pattern, url.path)
        if method == self.command and match:
          names = {key: unquote(value) for key, value in match.groupdict().items()}
          if names.pop('bucket') != self._gcs.bucket:
            raise _Refusal(404)
          act(self, query, body, **names)
          return
      self._refuse_unknown()
    except _Refusal as refusal:
      text = f'the fake bucket answers {refusal.status} to {self.command} {self.path}'
      error = {'error': {'code': refusal.status, 'message': text}}
      self._send(refusal.status, b'' if refusal.status == 304 else json.dumps(error).encode())

  def _refuse_unknown(self) -> NoReturn:
    self._gcs.unknown.append(f'{self.command} {self.path}')
    raise _Refusal(400)  # the clients retry a 501

  def _send(self, status: int, data: bytes = b'', **headers: str) -> None:
    self.send_response(status)
    headers.setdefault('Content-Type', 'application/json')
    for name, value in {**headers, 'Content-Length': str(len(data))}.items():
      self.send_header(name.replace('_', '-'), value)
    self.end_headers()
    self.wfile.write(data)

  def _send_json(self, value: dict[str, Any]) -> None:
    self._send(200, json.dumps(value).encode())

  def _resource(self, name: str, found: _Object) -> dict[str, Any]:
    return {
      'kind': 'storage#object',
      'bucket': self._gcs.bucket,
      'name': name,
      'size': str(len(found.data)),
      'generation': str(found.generation),
      'metageneration': '1',
      'timeCreated': _TIME,
      'updated': _TIME,
    }

  def _get_bucket(self, query, body) -> None:
    self._send_json({'kind': 'storage#bucket', 'name': self._gcs.bucket})

  def _list(self, query, body) -> None:
    """List objects by name; those that share the name up to a delimiter become one prefix."""
    prefix, delimiter = query.get('prefix', ''), query.get('delimiter', '')
    entries: dict[str, dict[str, Any] | None] = {}
    for name, found in self._gcs.resources():
      if not name.startswith(prefix):
        continue
      cut = name.find(delimiter, len(prefix)) if delimiter else -1
      if cut < 0:
        entries[name] = self._resource(name, found)
      else:
        entries[name[: cut + len(delimiter)]] = None
    rest = [name for name in entries if name > query.get('pageToken', '')]
    page = rest[: min(int(query.get('maxResults', _PAGE)), _PAGE)]
    answer: dict[str, Any] = {'kind': 'storage#objects'}
    answer['items'] = [entries[name] for name in page if entries[name]]
    answer['prefixes'] = [name for name in page if not entries[name]]
    if len(page) < len(rest):
      answer['nextPageToken'] = page[-1]
    self._send_json(answer)

  def _get_object(self, query, body, name) -> None:
    found = self._gcs.read(name, query)
    if query.get('alt') != 'media':
      self._send_json(self._resource(name, found))
      return
    size = len(found.data)
    kind = {'Content_Type': 'application/octet-stream', 'X_Goog_Generation': str(found.generation)}
    asked = re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range', ''))
    if not asked:
      self._send(200, found.data, **kind)
      return
    first, last = asked.groups()
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    if start >= stop:
      raise _Refusal(416)
    kind['Content_Range'] = f'bytes {start}-{stop - 1}/{size}'
    self._send(206, found.data[start:stop], **kind)

  def _upload(self, query, body) -> None:
    """Receive an object: TensorStore's plain upload, gcsfs's of one request or of one chunk."""
    kind = query.get('uploadType')
    if kind == 'resumable' and 'upload_id' not in query:
      self._send(200, Location=f'http://{self.headers["Host"]}{self.path}&upload_id=1')
      return
    if kind == 'multipart':
      text = f'Content-Type: {self.headers["Content-Type"]}\n\n'.encode() + body
      described, data = email.message_from_bytes(text, policy=email.policy.HTTP).iter_parts()
      query = {**query, 'name': json.loads(described.get_content())['name']}
      body = data.get_payload(decode=True)
      assert isinstance(body, bytes)
    size = len(body)
    whole = f'bytes 0-{size - 1}/{size}' if size else 'bytes */0'
    if kind not in ('media', 'multipart') and self.headers.get('Content-Range') != whole:
      self._refuse_unknown()
    name = query['name']
    self._send_json(self._resource(name, self._gcs.write(name, body, query)))

  def _delete(self, query, body, name) -> None:
    self._gcs.delete(name)
    self._send(204)

  def _move(self, query, body, name, to) -> None:
    self._send_json(self._resource(to, self._gcs.move(name, to)))


_BUCKET = '/storage/v1/b/(?P<bucket>[^/]+)'
_OBJECT = _BUCKET + '/o/(?P<name>[^/]+)'
_ROUTES = (
  ('GET', _BUCKET, _Handler._get_bucket),
  ('GET', _BUCKET + '/o', _Handler._list),
  ('GET', '(?:/download)?' + _OBJECT, _Handler._get_object),
  ('DELETE', _OBJECT, _Handler._delete),
  ('POST', _OBJECT + '/moveTo/o/(?P<to>[^/]+)', _Handler._move),
  ('POST', '/upload' + _BUCKET + '/o', _Handler._upload),
)
