"""Processes that take turns, so that a change of the machine's load meets them all."""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

ROOT = pathlib.Path(__file__).parents[1]
WARM_UP = 1.0
"""Seconds of a turn that do not count: what was made between the turns is used up."""


def turns_parser() -> argparse.ArgumentParser:
  """Return a parser with the flags of all benchmarks whose processes take turns."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--before', metavar='TREE', default='', help='another state of the package')
  parser.add_argument('--data', metavar='FOLDER', help='of the data set, kept for the next time')
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--seconds', type=float, default=4, help='of a turn')
  parser.add_argument('--json', type=pathlib.Path, help='file to write')
  return parser


def started(script: str, task: str, root: str | pathlib.Path = ROOT, **kwargs) -> subprocess.Popen:
  """Start a process for a task of a script, with the package of the tree `root`."""
  return subprocess.Popen(
    [sys.executable, script, '--task', str(root), task, json.dumps(kwargs)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=None if os.environ.get('VERBOSE') else subprocess.DEVNULL,
    env={'TF_CPP_MIN_LOG_LEVEL': '3', 'CUDA_VISIBLE_DEVICES': '', **os.environ},
    text=True,
  )


def answer(script: str, task: str, root: str | pathlib.Path = ROOT, **kwargs):
  """Run a task in a new process, and return what it prints."""
  out, _ = started(script, task, root, **kwargs).communicate()
  return json.loads(out)


def run_task(tasks: Mapping[str, Callable]) -> bool:
  """Run the task that this process was started for; False if it was not started for one."""
  if sys.argv[1:2] != ['--task']:
    sys.path.insert(0, os.fspath(ROOT))
    return False
  _, _, root, task, kwargs = sys.argv
  sys.path.insert(0, root)
  tasks[task](**json.loads(kwargs))
  return True


def serve(make: Callable[[], int], seconds: float) -> None:
  """For each line of input, make images for some seconds, and print the rate and the cost.

  Args:
    make: makes some images and returns their number.
  """
  for _ in sys.stdin:
    _make(make, WARM_UP)
    before = cpu_seconds()
    count, elapsed = _make(make, seconds)
    own = time.process_time() - before[0]  # to look at the children takes time, too
    spent = own, cpu_seconds()[1] - before[1]
    turn = {
      'images_per_second': count / elapsed,
      'cpu_us_per_image': spent[0] / count * 1e6,
      'workers_cpu_us_per_image': spent[1] / count * 1e6,
    }
    _settle()
    print(json.dumps(turn), flush=True)


def _make(make: Callable[[], int], seconds: float) -> tuple[int, float]:
  count, begun = 0, time.perf_counter()
  while (elapsed := time.perf_counter() - begun) < seconds:
    count += make()
  return count, elapsed


def _settle() -> None:
  """Wait until what is made ahead is made: it would disturb the next turn."""
  last = -1.0
  for _ in range(25):
    if (spent := sum(cpu_seconds())) < last + 0.03:
      break
    last = spent
    time.sleep(0.2)


def cpu_seconds() -> tuple[float, float]:
  """Return the CPU seconds of this process, and of its children together."""
  of_children = sum(_cpu_seconds(child) for child in children())
  return time.process_time(), of_children


def children() -> list[int]:
  """Return the PIDs of the processes that this one has started."""
  found = []
  for file in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      if int(_fields(file)[1]) == os.getpid():
        found.append(int(file.parent.name))
    except OSError:  # has ended
      continue
  return found


def _cpu_seconds(pid: int) -> float:
  fields = _fields(pathlib.Path(f'/proc/{pid}/stat'))
  return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def _fields(file: pathlib.Path) -> list[str]:
  """Return the fields of a file `stat` after the name of the process: state, parent …"""
  return file.read_text().rpartition(')')[2].split()


Turn = dict[str, float]
"""Figures of one turn: of the process, or the means of those that run together."""


def in_turns(
  groups: Mapping[str, Sequence[subprocess.Popen]], rounds: int
) -> dict[str, list[Turn]]:
  """Ask groups of servers in random order in each round; the first round does not count.

  The servers of a group are asked together.
  """
  turns: dict[str, list[Turn]] = {name: [] for name in groups}
  for number in range(rounds + 1):
    for name in random.sample(list(groups), len(groups)):
      for server in groups[name]:
        assert server.stdin is not None
        server.stdin.write('go\n')
        server.stdin.flush()
      found = [_reply(name, server) for server in groups[name]]
      turn = {key: statistics.mean(reply[key] for reply in found) for key in found[0]}
      turns[name] += [turn] if number else []
  for servers in groups.values():
    for server in servers:
      server.communicate()
  return turns


def _reply(name: str, server: subprocess.Popen) -> Turn:
  assert server.stdout is not None
  line = server.stdout.readline()
  if not line:
    raise SystemExit(f'{name} ended with exit code {server.wait()}')
  return json.loads(line)


def described(figures: Iterable[float], digits: int = 0) -> str:
  """Return the median with the range."""
  found = list(figures)
  middle, least, most = statistics.median(found), min(found), max(found)
  return f'{middle:,.{digits}f} ({least:,.{digits}f}–{most:,.{digits}f})'


def ratios(
  turns: Mapping[str, list[Turn]], one: str, other: str, figure: Callable[[Turn], float]
) -> list[float]:
  """Return the ratios of a figure within each round."""
  return [figure(a) / figure(b) for a, b in zip(turns[one], turns[other], strict=True)]
