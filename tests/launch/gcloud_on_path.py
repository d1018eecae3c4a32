"""A fake `gcloud` with a TPU of two workers in a folder, and the programs on its workers' PATH.

Run as `gcloud_on_path.py ROLE ARGUMENTS…`. Commands for the workers are executed, each with a home
folder of its own.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ERRORS = {
  'quota': """ERROR: (gcloud.compute.tpus.tpu-vm.create) HttpError: "error": { "code": 429,
"message": "Quota limit 'TPUV3PerProject' has been exceeded.", "status": "RESOURCE_EXHAUSTED" }""",
  'capacity': """ERROR: (gcloud.compute.tpus.tpu-vm.create) {
  "code": 8,
  "message": "There is no more capacity in the zone"
}""",
  'permission': "ERROR: (gcloud.compute.tpus) PERMISSION_DENIED: no permission for 'locations/x'",
  'network': 'ERROR: gcloud crashed (ConnectionError): Network is unreachable',
  'missing': 'ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource was not found',
  'ssh': 'ERROR: (gcloud.compute.tpus.tpu-vm.ssh) [/usr/bin/ssh] exited with return code [255].',
}
# Fails once if a file `flaky` exists.
UV = """
rm "$HOME/flaky" 2>/dev/null && exit 1
case "$1 $2" in
  'venv '*) mkdir -p .venv/bin && cat >.venv/bin/python && chmod +x .venv/bin/python ;;
  'pip freeze') cat "$HOME/freeze" ;;
esac <<'END'
#!/usr/bin/env bash
[[ $1 == --version ]] && echo Python 3.12.1 && exit
%s
END
"""


class Cloud:
  """`folder` has cloud.json: node and queued (states or None), plans (results of the next calls of
  a verb, in order), starts (behaviour of the next runs), asked (every command line)."""

  def __init__(self, folder):
    self.folder = pathlib.Path(folder)
    self.homes = [self.folder / f'w-{index}' for index in range(2)]

  @contextlib.contextmanager
  def open(self):
    """The contents of cloud.json, for one process at a time; written back."""
    with (self.folder / 'lock').open('w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      path = self.folder / 'cloud.json'
      content = json.loads(path.read_text())
      yield content
      path.write_text(json.dumps(content))

  def make(self):
    """New workers, with nothing but what a runtime has."""
    import shutil  # here, since most calls start without it: they are many

    for index, home in enumerate(self.homes):
      shutil.rmtree(home, ignore_errors=True)
      (home / 'bin').mkdir(parents=True)
      (home / 'boot_id').write_text('first\n')
      (home / 'freeze').write_text('jax==1.0\nlibtpu==2.0\n')
      write_script(home / 'bin' / 'hostname', f'echo w-{index}')
      write_script(home / 'bin' / 'sudo', 'exec "$@"')
      python = f'exec "{sys.executable}" -SE "{__file__}" python "$@"'
      write_script(home / 'bin' / 'uv', UV % python)
      for role in ('setsid', 'flock'):
        if not shutil.which(role):  # macOS
          write_role(home / 'bin' / role, role)

  def kill(self):
    """Ends all runs, as a preemption does."""
    for pids in self.folder.glob('w-*/mixer_jax_run/*.pids'):
      with contextlib.suppress(ProcessLookupError, PermissionError, IndexError):
        os.killpg(int(pids.read_text().split()[0]), signal.SIGKILL)


def write_script(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f'#!/usr/bin/env bash\n{text}\n')
  path.chmod(0o755)


def write_role(path, role):
  write_script(path, f'exec "{sys.executable}" -SE "{__file__}" {role} "$@"')


def stop_with(error):
  print(ERRORS[error], file=sys.stderr)
  sys.exit(1)


def gcloud(*argv):
  cloud = Cloud(os.environ['FAKE_CLOUD'])
  kind, verb = argv[argv.index('tpus') + 1 :][:2]
  command = next((a.split('=', 1)[1] for a in argv if a.startswith('--command=')), '')
  task = command.split()[2] if command else verb
  with cloud.open() as now:
    now['asked'].append(list(argv))
    plan = now['plans'].get(task, [])
    befalls = plan.pop(0) if plan else ''
    if befalls in ERRORS and befalls != 'ssh':
      error = befalls
    elif verb == 'ssh' or verb == 'scp':
      own = 'queued' if kind == 'queued-resources' else 'node'
      error = None if now['node'] == 'READY' and now[own] else 'missing'
    else:
      if befalls.isupper():
        now['queued' if kind == 'queued-resources' else 'node'] = befalls
      error = serve(cloud, now, kind, verb, argv)
  if error:
    stop_with(error)
  if befalls == 'ssh':
    print(ERRORS['ssh'], file=sys.stderr)
    sys.exit(255)
  if verb == 'scp':
    for home in cloud.homes:
      copy(home, [a for a in argv[4:] if a.startswith('/')])
  elif verb == 'ssh':
    worker = next(a.split('=')[1] for a in argv if a.startswith('--worker='))
    homes = cloud.homes if worker == 'all' else [cloud.homes[int(worker)]]
    # As gcloud does with a node whose address it does not get: it goes on without, and succeeds.
    codes = on_workers(homes[: {'one left out': 1, 'all left out': 0}.get(befalls)], command)
    if befalls in ('PREEMPTED', 'SUSPENDED'):
      cloud.kill()
      with cloud.open() as now:
        now['node' if befalls == 'PREEMPTED' else 'queued'] = befalls
    if befalls in (
      'late',
      'PREEMPTED',
      'SUSPENDED',
    ):  # the command was run, and then the connection broke
      sys.exit(255)
    sys.exit(next((code for code in codes if code), 0))


def serve(cloud, now, kind, verb, argv):
  """Act as the TPU service; return the name of an error, or None."""
  own = 'queued' if kind == 'queued-resources' else 'node'
  if verb == 'create':
    if own == 'queued':
      now['queued'] = 'WAITING_FOR_RESOURCES'
    else:
      now['node'] = 'READY'
    cloud.make()
  elif now[own] is None:
    return 'missing'
  elif verb == 'describe':
    print(now[own])
    if now['queued'] == 'WAITING_FOR_RESOURCES':
      now['queued'], now['node'] = 'ACTIVE', 'READY'
  elif verb == 'delete':
    cloud.kill()
    now[own] = None
    if own == 'queued':
      assert '--force' in argv
      now['node'] = None
  return None


def copy(home, paths):
  """As scp does; what the script looks for outside its home, it then looks for inside."""
  for path in map(pathlib.Path, paths):
    target = home / path.name
    if path.suffix == '.sh':
      text = path.read_text()
      for outside in ('/tmp/libtpu_lockfile', '/dev/accel', '/proc/sys/kernel/random/boot_id'):
        text = text.replace(outside, str(home / pathlib.Path(outside).name))
      target.write_text(text)
    else:
      target.write_bytes(path.read_bytes())


def on_workers(homes, command):
  """Exit codes. Behind the command its connection hangs up, which ends all that did not detach."""
  started = []
  for home in homes:
    path = f'{home / "bin"}{os.pathsep}{os.environ["PATH"]}'
    env = {**os.environ, 'HOME': str(home), 'PATH': path}
    shell = ['bash', '-c', command]
    started.append(
      subprocess.Popen(shell, cwd=home, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
    )
  codes = [process.wait() for process in started]
  for process in started:
    with contextlib.suppress(ProcessLookupError, PermissionError):
      os.killpg(process.pid, signal.SIGHUP)
  return codes


def python(*argv):
  """A run, that tells its arguments and does as the next of `starts` says."""
  assert argv[:2] == ('-m', 'mixer_jax')
  home = pathlib.Path(os.environ['HOME'])
  with Cloud(home.parent).open() as now:
    mine = now['starts'][home.name]
    does, value = (mine.pop(0) if mine else 'exit 0').split()
  with (home / 'calls').open('a') as calls:
    calls.write(json.dumps([os.getcwd(), *argv[2:]]) + '\n')
  with (home / 'environment').open('w') as file:
    file.write(json.dumps(dict(os.environ)))
  print('step 1', flush=True)
  signal.signal(signal.SIGUSR2, lambda *_: profile())
  if does == 'wait':  # for so many seconds, or until it is told to leave
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
  elif does == 'hang':
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
  elif does == 'leave':  # something behind
    subprocess.Popen(['sleep', '60'], close_fds=False)
  if does in ('wait', 'hang'):
    end = time.monotonic() + float(value)
    while time.monotonic() < end:  # a signal ends a sleep
      time.sleep(max(0, end - time.monotonic()))
    value = 0
  print('step 2', flush=True)
  sys.exit(int(value))


def profile():
  """Count the signals; write a profile at every second one."""
  folder = pathlib.Path(os.environ['MIXER_JAX_PROFILES'])
  folder.mkdir(exist_ok=True)
  (folder / f'{len(list(folder.iterdir()))}.signal').touch()
  if len(list(folder.glob('*.signal'))) % 2 == 0:
    (folder / f'{time.monotonic()}.xplane.pb').touch()


def setsid(*argv):
  os.setsid()
  os.execvp(argv[0], argv)


def flock(*argv):
  shared = fcntl.LOCK_SH if '-sn' in argv else fcntl.LOCK_EX
  wait = 0.0 if '-sn' in argv else 5.0 if '-w' in argv else 60.0
  end = time.monotonic() + wait
  while True:
    try:
      return fcntl.flock(int(argv[-1]), shared | fcntl.LOCK_NB)
    except BlockingIOError:
      if time.monotonic() >= end:
        sys.exit(1)
    time.sleep(0.05)


if __name__ == '__main__':
  globals()[sys.argv[1]](*sys.argv[2:])
