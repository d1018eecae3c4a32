"""launch/tpu_vm.sh against a fake `gcloud`, whose workers execute their commands."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import time

import pytest

from tests.launch import gcloud_on_path

ROOT = pathlib.Path(__file__).parents[2]
WHERE = ('pod', '--zone=us-central1-a')
TPU = (*WHERE, '--type=v3-16', '--spot')
COMMAND = ('--', 'train', '--workdir=gs://bucket/run')


class Pod:
  """A checkout with the script, and a fake cloud."""

  def __init__(self, folder):
    self.script = folder / 'checkout' / 'launch' / 'tpu_vm.sh'
    self.script.parent.mkdir(parents=True)
    for script in ('tpu_vm.sh', 'tpu_worker.sh', 'retry.sh', 'gcloud.sh'):
      shutil.copy(ROOT / 'launch' / script, self.script.parent)
    (folder / 'checkout' / 'with space.txt').write_text('tracked')
    for git in ('init -q', 'add .'):
      subprocess.run(['git', *git.split()], cwd=folder / 'checkout', check=True)
    gcloud_on_path.write_role(folder / 'path' / 'gcloud', 'gcloud')
    (folder / 'cloud').mkdir()
    self.cloud = gcloud_on_path.Cloud(folder / 'cloud')
    self.env = {
      **os.environ,
      'PATH': f'{folder / "path"}{os.pathsep}{os.environ["PATH"]}',
      'FAKE_CLOUD': str(folder / 'cloud'),
      'TPU_POLL': '0.1',
      'TPU_BACKOFF': '0',
    }
    self.started = []
    empty = {'node': None, 'queued': None, 'starts': {}, 'plans': {}, 'asked': []}
    (self.cloud.folder / 'cloud.json').write_text(json.dumps(empty))
    self.play()

  def play(self, *starts, node=None, **plans):
    """Set the behaviour of the next runs (one, or a pair), the TPU's state, results of calls."""
    pairs = [run if isinstance(run, tuple) else (run, run) for run in starts]
    with self.cloud.open() as now:
      now['plans'] = plans
      now['starts'] = {f'w-{index}': [pair[index] for pair in pairs] for index in range(2)}
      if node:
        now['node'] = node
        self.cloud.make()

  def start(self, *argv, **environment):
    # A shell's background job ignores SIGINT, its children too, and bash cannot trap it then.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
      signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
      [self.script, *argv],
      env={**self.env, **environment},
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )
    self.started.append(process)
    return process

  def do(self, *argv, code=0, **environment):
    """Return (stdout, stderr) of a call that must exit with this code."""
    process = self.start(*argv, **environment)
    try:
      out, err = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
      raise AssertionError(f'{argv} hangs: {self.kill(process)}') from None
    assert process.returncode == code, out + err
    return out, err

  def kill(self, process):
    os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()

  def asked(self):
    """Return the calls of gcloud: verbs, and for ssh the task of the workers."""
    with self.cloud.open() as now:
      calls = now['asked']
    name = lambda call: next(
      (a.split()[2] for a in call if a.startswith('--command=')),
      ' '.join(call[call.index('tpus') + 1 :][:2]),
    )
    return [name(call) for call in calls]

  def calls(self, worker=0):
    """Return the working folder and arguments of every run on a worker."""
    path = self.cloud.homes[worker] / 'calls'
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

  def until(self, what):
    end = time.monotonic() + 20
    while not what():
      assert time.monotonic() < end
      time.sleep(0.05)


@pytest.fixture
def pod(tmp_path):
  pod = Pod(tmp_path)
  yield pod
  for process in pod.started:
    if process.returncode is None:
      pod.kill(process)
  pod.cloud.kill()


@pytest.fixture
def ready(pod):
  pod.play(node='READY')
  pod.do('setup', *WHERE)
  return pod


# ---- creating a TPU


@pytest.mark.parametrize(
  ('kind', 'runtime'),
  [
    ('v2-8', 'tpu-ubuntu2204-base'),
    ('v3-128', 'tpu-ubuntu2204-base'),
    ('v4-32', 'tpu-ubuntu2204-base'),
    ('v5litepod-8', 'v2-alpha-tpuv5-lite'),
    ('v5p-8', 'v2-alpha-tpuv5'),
    ('v6e-16', 'v2-alpha-tpuv6e'),
  ],
)
def test_the_runtime_follows_from_the_type(pod, kind, runtime):
  out, _ = pod.do('create', *WHERE, f'--type={kind}', DRY_RUN='1')
  assert shlex.split(out) == [
    *('gcloud', 'compute', 'tpus', 'tpu-vm', 'create', 'pod', f'--accelerator-type={kind}'),
    *(f'--version={runtime}', '--zone=us-central1-a', '--quiet'),
  ]
  out, _ = pod.do('create', *WHERE, f'--type={kind}', '--version=other', DRY_RUN='1')
  assert '--version=other' in shlex.split(out)


def test_a_queued_resource_has_the_name_of_its_tpu(pod):
  flags = ('--type=v6e-8', '--queued', '--valid-until=6h', '--spot', '--project=p')
  out, _ = pod.do('create', *WHERE, *flags, DRY_RUN='1')
  assert shlex.split(out)[3:] == [
    *('queued-resources', 'create', 'pod', '--node-id=pod', '--accelerator-type=v6e-8'),
    *('--runtime-version=v2-alpha-tpuv6e', '--spot', '--valid-until-duration=6h'),
    *('--zone=us-central1-a', '--project=p', '--quiet'),
  ]


NETWORK = (
  *('--network=net', '--subnetwork=sub', '--internal-ips', '--service-account=a@p.example'),
  *('--scopes=cloud-platform', '--labels=team=vision,user=me', '--tags=tpu', '--metadata=k=v'),
  *('--data-disk=source=projects/p/zones/z/disks/a,mode=read-only', '--data-disk=source=b'),
)


def test_flags_of_the_network_and_the_account_are_those_of_gcloud(pod):
  for queued in ((), ('--queued',)):
    out, _ = pod.do('create', *WHERE, '--type=v3-8', *NETWORK, *queued, DRY_RUN='1')
    words = shlex.split(out)
    start = words.index(NETWORK[0])
    assert words[start : start + len(NETWORK)] == [*NETWORK]


def test_a_reservation_and_flex_start_are_requested_by_the_alpha_commands(pod):
  out, _ = pod.do('create', *WHERE, '--type=v5p-8', '--reservation=mine', DRY_RUN='1')
  assert shlex.split(out)[:6] == ['gcloud', 'alpha', 'compute', 'tpus', 'tpu-vm', 'create']
  assert '--reservation=mine' in out
  flags = ('--type=v6e-8', '--queued', '--flex-start=6h')
  out, _ = pod.do('create', *WHERE, *flags, DRY_RUN='1')
  assert shlex.split(out)[:5] == ['gcloud', 'alpha', 'compute', 'tpus', 'queued-resources']
  assert '--provisioning-model=flex-start --max-run-duration=6h' in out


def test_workers_are_reached_by_the_way_that_the_flags_name(pod):
  ways = {
    (): ('tpu-vm', None),
    ('--internal-ips',): ('tpu-vm', '--internal-ip'),
    ('--queued',): ('queued-resources', None),
    ('--queued', '--internal-ips'): ('queued-resources', '--internal-ip'),
    ('--queued', '--internal-ips', '--iap'): ('queued-resources', '--tunnel-through-iap'),
  }
  for flags, (group, route) in ways.items():
    out, _ = pod.do('setup', *WHERE, *flags, DRY_RUN='1')
    for line in out.splitlines():
      words = shlex.split(line)
      assert words[3] == group
      assert {'--internal-ip', '--tunnel-through-iap'} & {*words} == ({route} if route else set())


def test_a_refused_creation_reports_the_error_of_gcloud(pod):
  pod.play(create=['quota'])
  _, err = pod.do('create', *TPU, code=1)
  assert 'Quota limit' in err
  assert pod.asked() == ['tpu-vm create']


def test_settings_come_from_the_environment_and_flags_win(pod):
  settings = {'TPU_ZONE': 'us-east1-d', 'TPU_PROJECT': 'mine', 'DRY_RUN': '1'}
  out, _ = pod.do('delete', 'pod', **settings)
  assert '--zone=us-east1-d --project=mine' in out
  out, _ = pod.do('delete', *WHERE, '--project=other', **settings)
  assert '--zone=us-central1-a --project=other' in out


def test_delete_includes_the_queued_resource_and_reports_a_missing_tpu(pod):
  _, err = pod.do('delete', *WHERE)
  assert 'there is no pod to delete' in err
  pod.do('create', *TPU, '--queued')
  _, err = pod.do('delete', *WHERE)
  assert 'pod is deleted' in err
  with pod.cloud.open() as now:
    assert now['node'] is None
    assert now['queued'] is None


# ---- bad input


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    ('fly pod', "no command 'fly'"),
    ('status', "'' is not a TPU name"),
    ('status Pod_1 --zone=us-central1-a', "'Pod_1' is not a TPU name"),
    ('status pod', '--zone=us-central1-a, or TPU_ZONE'),
    ('status pod --zone=us-central1', "'us-central1' is not a zone"),
    ('status pod --zone us-central1-a', 'lacks its =VALUE'),
    ('status pod --zone=us-central1-a --fast', '--fast is not a flag'),
    ('status pod extra --zone=us-central1-a', "'extra' after the name pod"),
    ('status pod --zone=us-central1-a -- train', 'status does not accept a command'),
    ('create pod --zone=us-central1-a', 'is not a TPU type'),
    ('create pod --zone=us-central1-a --type=v5e-8', 'v5litepod-8 (v5e)'),
    ('create pod --zone=us-central1-a --type=v3-8 --valid-until=6h', 'needs --queued'),
    ('run pod --zone=us-central1-a', 'no command to run'),
    ('run pod --zone=us-central1-a --', 'no command to run'),
    ('logs pod --zone=us-central1-a --worker=x', '--worker=x must be the number of a worker'),
    ('logs pod --zone=us-central1-a --worker=all --follow', '--follow shows one worker'),
    ('status pod --zone=us-central1-a --iap', '--iap needs --queued'),
    ('create pod --zone=us-central1-a --type=v6e-8 --flex-start=6h', '--flex-start needs --queued'),
    (
      'create pod --zone=us-central1-a --spot --reservation=r',
      '--reservation=r and --spot exclude',
    ),
    ('run pod --zone=us-central1-a --env=1A=b -- train', '--env=1A=b must be NAME=VALUE'),
    ('profile pod --zone=us-central1-a --seconds=0', '--seconds=0 must be an integer in 1..99'),
    ('profile pod --zone=us-central1-a --to=folder', '--to=folder must be a folder in a bucket'),
    ('setup pod --zone=us-central1-a --mount=gs://b:data', 'without gs://'),
  ],
)
def test_bad_input_is_one_line_before_gcloud_is_called(pod, argv, message):
  _, err = pod.do(*argv.split(), code=2)
  assert message in err
  assert err.count('\n') == 1
  assert pod.asked() == []


def test_settings_must_be_numbers(pod):
  _, err = pod.do('status', *WHERE, code=2, TPU_FAILURES='many')
  assert 'TPU_FAILURES=many must be an integer' in err


def test_usage(pod):
  out, _ = pod.do('--help')
  assert 'babysit' in out
  assert pod.do(code=2) == ('', out)


def test_a_missing_gcloud_is_reported(pod, tmp_path):
  tools = tmp_path / 'tools'
  tools.mkdir()
  for name in ('bash', 'env', 'dirname'):
    (tools / name).symlink_to(shutil.which(name))
  _, err = pod.do('status', *WHERE, code=2, PATH=str(tools))
  assert 'gcloud is not on PATH' in err


# ---- setup


def test_setup_brings_the_tracked_files_and_retries_flaky_installs(pod):
  pod.play(node='READY', scp=['ssh'], setup=['ssh'])
  for home in pod.cloud.homes:
    (home / 'flaky').touch()
  out, _ = pod.do('setup', *WHERE)
  assert re.fullmatch(
    r'(w-[01] ready Python 3\.12\.1 jax==1\.0 libtpu==2\.0 packages \d+ source \d+\n){2}', out
  )
  assert (pod.cloud.homes[1] / 'mixer_jax' / 'with space.txt').read_text() == 'tracked'
  assert pod.asked() == ['tpu-vm scp', 'tpu-vm scp', 'setup', 'setup']


def test_workers_with_different_versions_are_rejected(ready):
  (ready.cloud.homes[1] / 'freeze').write_text('jax==1.1\nlibtpu==2.0\n')
  _, err = ready.do('setup', *WHERE, code=1)
  assert 'w-1 ready Python 3.12.1 jax==1.1' in err
  assert 'have different versions' in err
  ready.do('run', *WHERE, *COMMAND, code=2)
  assert ready.calls() == []


def test_setup_mounts_a_bucket_for_reading(pod):
  pod.play(node='READY')
  for home in pod.cloud.homes:
    gcloud_on_path.write_script(home / 'bin' / 'mountpoint', 'exit 1')
    gcloud_on_path.write_script(home / 'bin' / 'gcsfuse', 'echo "$@" >"$HOME/mounted"')
  pod.do('setup', *WHERE, '--mount=my-bucket:data')
  for home in pod.cloud.homes:
    assert (home / 'data').is_dir()
    assert (home / 'mounted').read_text() == f'-o ro --implicit-dirs my-bucket {home}/data\n'


# ---- a run


def test_arguments_reach_every_worker_unchanged(ready):
  odd = [
    'train',
    '--a=b c',
    "it's",
    '"',
    '$HOME `id` $(id)',
    '*',
    'a\nb',
    '',
    '\\',
    '~',
    '!',
    'é;&|',
  ]
  out, _ = ready.do('run', *WHERE, '--', *odd)
  assert out == 'step 1\nstep 2\n'
  for worker, home in enumerate(ready.cloud.homes):
    assert ready.calls(worker) == [[str(home / 'mixer_jax'), *odd]]


@pytest.mark.parametrize(
  ('ends', 'code'), [('exit 2', 2), ('exit 74', 74), (('exit 0', 'exit 1'), 1), ('leave 0', 0)]
)
def test_the_exit_code_is_the_runs(ready, ends, code):
  ready.play(ends)
  ready.do('run', *WHERE, *COMMAND, code=code)
  ready.do('logs', *WHERE, '--follow', code=code)
  out, _ = ready.do('status', *WHERE)
  assert 'pod: READY\n' in out
  if ends == 'leave 0':
    ready.do('run', *WHERE, *COMMAND)  # nothing is left that holds the lock


def test_a_worker_that_fails_is_named_and_the_end_of_its_log_shown(ready):
  ready.play(('wait 1', 'exit 1'))
  out, err = ready.do('run', *WHERE, *COMMAND, code=1)
  assert out == 'step 1\nstep 2\n'
  assert err == 'tpu_vm: worker w-1 failed first, with code 1\nw-1: step 1\nw-1: step 2\n'
  ready.play(('exit 3', 'wait 1'))
  _, err = ready.do('run', *WHERE, *COMMAND, code=3)
  assert err == 'tpu_vm: worker w-0 failed first, with code 3\n'  # its log is shown in full
  out, _ = ready.do('logs', *WHERE, '--worker=all')
  assert out == 'w-0: step 1\nw-0: step 2\nw-1: step 1\nw-1: step 2\n'


def test_variables_reach_every_worker_and_tell_runs_apart(ready):
  ready.play('wait 60')
  odd = '--env=LIBTPU_INIT_ARGS=--a=1 --b="x y"'
  first = ready.start('run', *WHERE, odd, '--env=EMPTY=', *COMMAND)
  ready.until(lambda: ready.calls() and ready.calls(1))
  for home in ready.cloud.homes:
    ready.until(lambda home=home: (home / 'environment').exists())
    seen = json.loads((home / 'environment').read_text())
    assert seen['LIBTPU_INIT_ARGS'] == '--a=1 --b="x y"'
    assert seen['EMPTY'] == ''
  _, err = ready.do('babysit', *TPU, *COMMAND, code=2)
  assert 'pod runs another command' in err
  ready.do('stop', *WHERE)
  first.communicate(timeout=20)
  assert first.returncode == 75


def test_a_profile_is_recorded_on_every_worker(ready):
  _, err = ready.do('profile', *WHERE, code=1)
  assert err.count('idle: nothing runs that could be profiled') == 2
  ready.play('wait 60')
  first = ready.start('run', *WHERE, *COMMAND)
  ready.until(lambda: all((home / 'environment').exists() for home in ready.cloud.homes))
  time.sleep(0.2)  # until they have their signal handler
  out, _ = ready.do('profile', *WHERE, '--seconds=1')
  assert out.count(' profiled ') == 2
  for home in ready.cloud.homes:
    assert len(list((home / 'mixer_jax_run').glob('*.profiles/*.xplane.pb'))) == 1
    gcloud_on_path.write_script(home / 'bin' / 'gcloud', 'echo "$@" >"$HOME/copied"')
  out, _ = ready.do('profile', *WHERE, '--seconds=1', '--to=gs://bucket/p/')
  assert out.count('.profiles, copied to gs://bucket/p\n') == 2
  assert 'gs://bucket/p/w-1/' in (ready.cloud.homes[1] / 'copied').read_text()
  ready.do('stop', *WHERE)
  first.communicate(timeout=20)


def test_workers_that_do_not_answer_are_not_taken_for_ended(ready):
  ready.play('wait 1', state=['all left out', 'one left out'])
  out, err = ready.do('run', *WHERE, *COMMAND)
  assert out == 'step 1\nstep 2\n'
  assert err.count('cannot all be reached') == 2


def test_a_run_outlives_every_broken_connection(pod):
  pod.play(
    'wait 1',
    node='READY',
    check=['ssh'],
    start=['late', 'ssh'],
    state=['ssh', 'ssh'],
    log=['ssh', '', 'ssh'],
  )
  pod.do('setup', *WHERE)
  out, err = pod.do('run', *WHERE, *COMMAND)
  assert out == 'step 1\nstep 2\n'
  assert 'cannot all be reached (state: READY); trying again' in err
  assert len(pod.calls()) == len(pod.calls(1)) == 1  # although start was sent three times


def test_a_second_run_is_rejected_and_an_interrupt_does_not_stop_the_first(ready):
  ready.play('wait 60')
  first = ready.start('run', *WHERE, *COMMAND)
  ready.until(ready.calls)
  _, err = ready.do('run', *WHERE, *COMMAND, code=2)
  assert 'busy with another run: stop it' in err
  _, err = ready.do('setup', *WHERE, code=1)
  assert 'busy with a run' in err
  os.killpg(first.pid, signal.SIGINT)
  assert 'continues' in first.communicate(timeout=20)[1]
  assert first.returncode == 130
  out, _ = ready.do('status', *WHERE)
  assert out.count(' running ') == 2
  out, _ = ready.do('logs', *WHERE, '--worker=1')
  assert out == 'step 1\n'
  _, err = ready.do('stop', *WHERE)
  assert 'nothing is running on pod' in err
  ready.do('logs', *WHERE, '--follow', code=75)
  ready.do('stop', *WHERE)  # twice does no harm


def test_a_run_that_does_not_exit_is_killed(ready):
  ready.play('hang 60', ('exit 1', 'hang 60'))
  first = ready.start('run', *WHERE, *COMMAND)
  ready.until(lambda: ready.calls() and ready.calls(1))
  _, err = ready.do('stop', *WHERE, code=1, TPU_STOP_SECONDS='1')
  assert 'was killed' in err
  first.communicate(timeout=20)
  assert first.returncode == 137
  _, err = ready.do('run', *WHERE, *COMMAND, code=1, TPU_PATIENCE='1')
  assert 'a worker exited with code 1 but others did not' in err


def test_only_a_stale_lock_of_libtpu_is_removed(ready):
  lock = ready.cloud.homes[0] / 'libtpu_lockfile'
  lock.touch()
  ready.do('run', *WHERE, *COMMAND)
  assert not lock.exists()
  if not pathlib.Path('/proc/self/fd').exists():
    return
  with lock.open('w'):
    _, err = ready.do('run', *WHERE, *COMMAND, code=2)
  assert f'w-0 busy: the TPU is held by process {os.getpid()}' in err
  assert lock.exists()


def test_a_worker_that_is_not_set_up_or_has_rebooted_is_rejected(pod):
  pod.play(node='READY')
  _, err = pod.do('run', *WHERE, *COMMAND, code=2)
  assert err.count('unset (run setup)') == 2
  pod.do('setup', *WHERE)
  (pod.cloud.homes[1] / 'boot_id').write_text('second\n')
  _, err = pod.do('run', *WHERE, *COMMAND, code=2)
  assert 'w-1 unset (run setup)' in err


def test_a_run_whose_tpu_is_preempted_ends_with_75(ready):
  ready.play('wait 60', state=['', 'PREEMPTED'])
  _, err = ready.do('run', *WHERE, *COMMAND, code=75)
  assert 'pod is PREEMPTED' in err


# ---- babysit


def test_babysit_completes_a_preempted_run(pod):
  pod.play('wait 60', 'exit 0', state=['', '', 'PREEMPTED'], create=['quota', 'capacity'])
  _, err = pod.do('babysit', *TPU, *COMMAND)
  assert 'has no quota or capacity; trying again in 0 s' in err
  assert pod.calls() == [[str(pod.cloud.homes[0] / 'mixer_jax'), *COMMAND[1:]]]
  asked = [name for name in pod.asked() if name not in ('log', 'state')]
  missing = ['tpu-vm describe', 'queued-resources describe']
  attempt = ['tpu-vm describe', 'tpu-vm scp', 'setup', 'check', 'start']
  assert asked == [
    *[*missing, 'tpu-vm create'] * 3,
    *[*attempt, 'tpu-vm describe'],  # why the workers do not answer
    *['tpu-vm describe', 'queued-resources delete', 'tpu-vm delete'],
    *[*missing, 'tpu-vm create', *attempt],
  ]


def test_babysit_waits_for_a_queued_resource(pod):
  _, err = pod.do('babysit', *TPU, '--queued', *COMMAND)
  assert 'pod is QUEUED_WAITING_FOR_RESOURCES; waiting' in err
  assert 'queued-resources create' in pod.asked()
  assert 'tpu-vm create' not in pod.asked()


def test_a_queued_tpu_is_reached_and_judged_by_its_queued_resource(pod):
  pod.play('wait 60', 'exit 0', state=['', 'SUSPENDED'])  # while the TPU says READY
  _, err = pod.do('babysit', *TPU, '--queued', '--iap', *COMMAND)
  assert 'pod is QUEUED_SUSPENDED: creating it again' in err
  assert pod.asked().count('queued-resources create') == 2
  with pod.cloud.open() as now:
    asked = [call for call in now['asked'] if call[3] in ('ssh', 'scp')]
  assert all(call[2] == 'queued-resources' for call in asked)
  assert all('--tunnel-through-iap' in call for call in asked)


def test_a_spot_tpu_that_was_stopped_is_created_again(pod):
  pod.play(node='STOPPED')
  _, err = pod.do('babysit', *TPU, *COMMAND)
  assert 'pod is STOPPED: creating it again' in err


def test_babysit_replaces_a_failed_queued_resource(pod):
  pod.play(describe=['', '', '', 'FAILED'])
  _, err = pod.do('babysit', *TPU, '--queued', '--valid-until=1h', *COMMAND)
  assert 'pod is QUEUED_FAILED: creating it again' in err
  assert pod.asked().count('queued-resources create') == 2


def test_babysit_stops_immediately_at_bad_input_of_the_run(pod):
  pod.play('exit 2')
  pod.do('babysit', *TPU, *COMMAND, code=2)
  assert pod.asked().count('start') == 1


@pytest.mark.parametrize('verb', ['describe', 'create'])
def test_babysit_stops_immediately_if_gcloud_refuses_permanently(pod, verb):
  pod.play(**{verb: ['permission']})
  _, err = pod.do('babysit', *TPU, *COMMAND, code=1)
  assert 'PERMISSION_DENIED' in err
  assert pod.asked()[-1] == f'tpu-vm {verb}'


def test_babysit_gives_up_after_successive_failures(pod):
  pod.play('exit 1', 'exit 75', 'exit 1', 'exit 74')
  _, err = pod.do('babysit', *TPU, *COMMAND, code=74, TPU_FAILURES='2')
  assert 'pod exited with code 74' in err
  assert 'giving up after 2 failures' in err
  assert len(pod.calls()) == 4
  assert pod.asked().count('setup') == 1  # the TPU existed all the time


def test_babysit_survives_a_network_failure(pod):
  pod.play(describe=['network'] * 3, create=['network'], state=['network'])
  _, err = pod.do('babysit', *TPU, *COMMAND, TPU_FAILURES='2')
  assert 'Network is unreachable' in err


def test_babysit_follows_a_run_that_is_already_running(ready):
  ready.play('wait 2')
  first = ready.start('babysit', *TPU, *COMMAND)
  ready.until(ready.calls)
  os.killpg(first.pid, signal.SIGINT)
  first.communicate(timeout=20)
  assert first.returncode == 130
  _, err = ready.do('babysit', *TPU, '--', 'train', '--workdir=elsewhere', code=2)
  assert 'pod runs another command' in err
  out, err = ready.do('babysit', *TPU, *COMMAND)
  assert 'following the run that is already running' in err
  assert out == 'step 1\nstep 2\n'
  assert len(ready.calls()) == 1


def test_stop_also_ends_a_babysitter(ready):
  ready.play('wait 60')
  babysitter = ready.start('babysit', *TPU, *COMMAND)
  ready.until(lambda: ready.calls() and ready.calls(1))
  ready.do('stop', *WHERE)
  babysitter.communicate(timeout=20)
  assert babysitter.returncode == 75


def test_babysit_checks_the_run_before_it_creates_a_tpu(pod, tmp_path):
  python = tmp_path / 'python'
  gcloud_on_path.write_script(python, 'echo "checked $*" >&2; exit $CODE')
  _, err = pod.do('babysit', *TPU, *COMMAND, code=2, PYTHON=str(python), CODE='2')
  assert 'checked -m mixer_jax train --workdir=gs://bucket/run --check' in err
  assert 'would be rejected: nothing was created' in err
  assert pod.asked() == []
  pod.do('babysit', *TPU, *COMMAND, PYTHON=str(python), CODE='74')  # this machine has no access
  assert len(pod.calls()) == 1


def test_babysit_leaves_a_stopped_tpu_alone(pod):
  pod.play(node='STOPPED')
  _, err = pod.do('babysit', *WHERE, '--type=v3-16', *COMMAND, code=1)
  assert 'pod is STOPPED' in err
  assert pod.asked() == ['tpu-vm describe']


# ---- the real gcloud


def dry(pod, *argv):
  out, _ = pod.do(*argv, DRY_RUN='1', PATH=os.environ['PATH'])
  assert pod.asked() == []
  return [shlex.split(line) for line in out.splitlines()]


def accepted(commands, tmp_path):
  """Return the number of different commands, all of which gcloud's parser accepts.

  Without an account its exit code is 1 for valid flags, and 2 for others.
  """
  different = {}  # one of each kind, by verb and flag names
  for command in commands:
    key = (*command[:6], *(part.split('=')[0] for part in command if part.startswith('-')))
    different.setdefault(key, command)
  env = {
    **os.environ,
    'CLOUDSDK_CONFIG': str(tmp_path / 'config'),
    'CLOUDSDK_CORE_CHECK_GCE_METADATA': 'false',
    'CLOUDSDK_CORE_DISABLE_PROMPTS': '1',
  }
  for command in different.values():
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1, f'{command}: {done.stderr}'
    assert 'account' in done.stderr, f'{command}: {done.stderr}'
  return len(different)


@pytest.mark.skipif(not shutil.which('gcloud'), reason='gcloud is not installed')
def test_the_parser_of_the_real_gcloud_accepts_every_command(pod, tmp_path):
  commands = dry(pod, 'babysit', *WHERE, '--type=v3-128', '--spot', '--project=p', *COMMAND)
  for flags in (
    '--type=v4-8 --project=p --reserved',
    '--type=v5litepod-8 --project=p --queued',
    '--type=v5p-8 --project=p --queued --spot --valid-until=6h',
    '--type=v6e-8 --project=p --spot --version=v2-alpha-tpuv6e',
  ):
    commands += dry(pod, 'create', *WHERE, *flags.split())
  assert 9 <= accepted(commands, tmp_path) <= 15


@pytest.mark.long
@pytest.mark.skipif(not shutil.which('gcloud'), reason='gcloud is not installed')
def test_the_parser_of_the_real_gcloud_accepts_networks_tunnels_and_reservations(pod, tmp_path):
  where = (*WHERE, '--project=p')
  commands = []
  for flags in (
    '--type=v3-8',
    '--type=v3-8 --queued',
    '--type=v3-8 --reservation=r',
    '--type=v3-8 --queued --reservation=r',
    '--type=v6e-8 --queued --flex-start=6h --valid-until=6h',
  ):
    commands += dry(pod, 'create', *where, *NETWORK, *flags.split())
  for flags in ('--internal-ips', '--queued', '--queued --internal-ips', '--queued --iap'):
    commands += dry(pod, 'setup', *where, *flags.split())
  assert accepted(commands, tmp_path) == 5 + 2 * 4
