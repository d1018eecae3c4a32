"""A headless Chromium, driven through chromedriver (W3C WebDriver, over HTTP)."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

CHROMIUM = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None
)
CHROMEDRIVER = shutil.which('chromedriver')

_FLAGS = (
  *('--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-sync'),
  *('--disable-background-networking', '--disable-component-update', '--disable-dev-shm-usage'),
)


class Browser:
  """One window."""

  def __init__(self, session: str):
    self._session = session

  def ask(self, path: str, **body: Any) -> Any:
    """Return the value that the driver answers to a POST."""
    return _ask(f'{self._session}/{path}', body)

  def run(self, script: str) -> Any:
    """Return the result of a script in the page."""
    return self.ask('execute/sync', script=script, args=[])

  def open(self, page: pathlib.Path) -> None:
    """Load a file."""
    self.ask('url', url=page.absolute().as_uri())

  def point(self, x: float, y: float) -> None:
    """Move the mouse, in pixels of the window."""
    move = {'type': 'pointerMove', 'duration': 0, 'x': round(x), 'y': round(y)}
    mouse = {'type': 'pointer', 'id': 'mouse', 'parameters': {'pointerType': 'mouse'}}
    self.ask('actions', actions=[{**mouse, 'actions': [move]}])

  def complaints(self) -> list[str]:
    """Return console messages since the last call: errors of scripts, loads and the policy."""
    return [entry['message'] for entry in self.ask('se/log', type='browser')]


@contextlib.contextmanager
def opened(folder: pathlib.Path, *flags: str) -> Iterator[Browser]:
  """Start a browser with its profile in `folder`."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  environment = {**os.environ, 'HOME': str(folder)}
  command = [str(CHROMEDRIVER), f'--port={port}', '--log-level=SEVERE']
  driver = subprocess.Popen(
    command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )
  try:
    options = {'binary': CHROMIUM, 'args': [*_FLAGS, f'--user-data-dir={folder}/profile', *flags]}
    wanted = {'goog:chromeOptions': options, 'goog:loggingPrefs': {'browser': 'ALL'}}
    root = f'http://127.0.0.1:{port}/session'
    session = _ask_when_ready(root, {'capabilities': {'alwaysMatch': wanted}})['sessionId']
    try:
      yield Browser(f'{root}/{session}')
    finally:
      _ask(f'{root}/{session}', None, 'DELETE')
  finally:
    driver.terminate()
    driver.wait()


def _ask_when_ready(url: str, body: Any) -> Any:
  for _ in range(200):
    try:
      return _ask(url, body)
    except urllib.error.HTTPError as error:
      raise AssertionError(error.read().decode()) from error
    except urllib.error.URLError:
      time.sleep(0.05)
  raise AssertionError('chromedriver does not answer')


def _ask(url: str, body: Any, method: str = 'POST') -> Any:
  data = None if body is None else json.dumps(body).encode()
  request = urllib.request.Request(url, data, {'Content-Type': 'application/json'}, method=method)
  # A proxy of the machine is not for its own addresses.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  with opener.open(request, timeout=120) as answer:
    return json.load(answer)['value']
