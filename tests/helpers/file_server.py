"""A web server on loopback for the files of one folder, with ranges and faults on demand."""

import contextlib
import http.server
import pathlib
import threading
from collections.abc import Iterator


class FileServer(http.server.ThreadingHTTPServer):
  """Serves `folder`; each request uses up one of the faults that a test sets."""

  def __init__(self, folder: pathlib.Path):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.folder = folder
    self.requests: list[tuple[str, str | None]] = []
    """(path, Range header) of each request."""
    self.break_after: list[int] = []
    """Numbers of bytes after which the next answers end."""
    self.statuses: list[int] = []
    """Statuses of the next answers."""
    self.ranges = True
    self.lie: tuple[int, dict[str, str], bytes] | None = None
    """Status, headers and body of all answers."""

  @property
  def url(self) -> str:
    return f'http://127.0.0.1:{self.server_address[1]}'


class _Handler(http.server.BaseHTTPRequestHandler):
  server: FileServer  # pyright: ignore[reportIncompatibleVariableOverride]

  def do_GET(self):
    asked = self.headers.get('Range')
    self.server.requests.append((self.path, asked))
    file = self.server.folder / self.path.lstrip('/')
    if self.server.lie:
      self._send(*self.server.lie)
      return
    if self.server.statuses:
      self._empty(self.server.statuses.pop(0))
      return
    if not file.is_file():
      self._empty(404)
      return
    data = file.read_bytes()
    begin = int(asked.removeprefix('bytes=').rstrip('-')) if asked and self.server.ranges else 0
    if begin >= len(data) and begin:
      self._empty(416, {'Content-Range': f'bytes */{len(data)}'})
      return
    self.send_response(206 if begin else 200)
    if begin:
      self.send_header('Content-Range', f'bytes {begin}-{len(data) - 1}/{len(data)}')
    self.send_header('Content-Length', str(len(data) - begin))
    self.end_headers()
    end = begin + self.server.break_after.pop(0) if self.server.break_after else len(data)
    self.wfile.write(data[begin:end])
    self.close_connection = True

  def _send(self, status: int, headers: dict[str, str], body: bytes):
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.end_headers()
    with contextlib.suppress(OSError):  # the client may have left
      self.wfile.write(body)
    self.close_connection = True

  def _empty(self, status: int, headers: dict[str, str] | None = None):
    self.send_response(status)
    for name, value in {**(headers or {}), 'Content-Length': '0'}.items():
      self.send_header(name, value)
    self.end_headers()

  def log_message(self, *_):
    """Log nothing."""


@contextlib.contextmanager
def serving(folder: pathlib.Path) -> Iterator[FileServer]:
  """Start a server."""
  server = FileServer(folder)
  thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.05})
  thread.start()
  try:
    yield server
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
