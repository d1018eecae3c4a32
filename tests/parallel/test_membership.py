"""What a launcher's environment may say, and proxies that must not be asked."""

import os

import pytest

from mixer_jax.errors import ApartError, UserError
from mixer_jax.parallel import membership
from mixer_jax.parallel.membership import COORDINATOR, NUM_PROCESSES, PROCESS_ID, Membership
from mixer_jax.parallel.processes import ProcessesConfig

PROXIES = ('http_proxy', 'https_proxy', 'all_proxy', 'grpc_proxy', 'no_proxy', 'no_grpc_proxy')


def launch(monkeypatch, address='localhost:1234', count='2', index='0'):
  for name, value in ((COORDINATOR, address), (NUM_PROCESSES, count), (PROCESS_ID, index)):
    monkeypatch.setenv(name, value)
  return membership.from_launcher()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
  for name in (COORDINATOR, NUM_PROCESSES, PROCESS_ID, *PROXIES):
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
  ('address', 'host', 'port'),
  [
    ('10.0.0.2:8476', '10.0.0.2', 8476),
    ('t1k-w-0.c:1', 't1k-w-0.c', 1),
    ('[::1]:65535', '::1', 65535),
  ],
)
def test_addresses(monkeypatch, address, host, port):
  member = launch(monkeypatch, address)
  assert member
  assert member == Membership(address, 2, 0)
  assert (member.host, member.port) == (host, port)


def test_without_a_launcher_there_is_no_membership():
  assert membership.from_launcher() is None


@pytest.mark.parametrize(
  'address',
  [
    *('', 'nohost:x', 'host', 'host:', ':1234', 'host:0', 'host:65536', 'host:-1', 'host:٣'),
    *('host:123456', 'a b:1', 'http://host:80', 'unix:/tmp/x:1', '::1:80', '[::1]', 'host:1\n'),
    *('-o:1', 'h\x1b[2J:1'),
  ],
)
def test_a_wrong_address_is_rejected_by_name(monkeypatch, address):
  with pytest.raises(UserError, match=f'^{COORDINATOR}=.*host:port') as refusal:
    launch(monkeypatch, address)
  assert '\n' not in str(refusal.value)


@pytest.mark.parametrize('count', ['', '0', '-2', '1.5', '²', '٣', 'two', '9' * 5000])
def test_a_wrong_number_of_processes_is_rejected_by_name(monkeypatch, count):
  with pytest.raises(UserError, match=f'^{NUM_PROCESSES}='):
    launch(monkeypatch, count=count)


@pytest.mark.parametrize('index', ['', '2', '-1', 'x', '9' * 5000])
def test_a_wrong_number_of_this_process_is_rejected_by_name(monkeypatch, index):
  with pytest.raises(UserError, match=f'^{PROCESS_ID}=.*0..1$'):
    launch(monkeypatch, index=index)


def test_where_nothing_assigns_a_number_the_way_out_is_named():
  with pytest.raises(UserError, match=f'set {COORDINATOR}, .*distributed=off'):
    membership.detected(1)


def test_a_metadata_server_that_does_not_answer_is_no_wrong_input(monkeypatch):
  from jax._src.clusters import ClusterEnv

  def fails(*_):
    raise OSError('the metadata server does not answer')

  monkeypatch.setattr(ClusterEnv, 'auto_detect_unset_distributed_params', fails)
  with pytest.raises(ApartError, match='metadata server does not answer'):
    membership.detected(1)


def test_a_proxy_is_not_asked_for_the_pod_and_what_was_excepted_stays(monkeypatch):
  membership.bypass_proxies('10.0.0.2')
  assert 'no_proxy' not in os.environ
  monkeypatch.setenv('HTTPS_PROXY', 'http://proxy:3128')
  monkeypatch.setenv('no_proxy', 'a.example, b.example')
  monkeypatch.setenv('NO_PROXY', 'c.example')
  monkeypatch.setenv('no_grpc_proxy', 'd.example')
  membership.bypass_proxies('10.0.0.2')
  for name in ('no_proxy', 'NO_PROXY', 'no_grpc_proxy'):
    hosts = os.environ[name].split(',')
    assert {'a.example', 'b.example', 'c.example', 'd.example'} <= set(hosts)
    assert {'127.0.0.1', '::1', 'localhost', 'metadata.google.internal', '10.0.0.2'} <= set(hosts)
    assert len(hosts) == len(set(hosts))


def test_large_pods_have_more_time_to_start():
  limits = [ProcessesConfig().start_limit(count) for count in (1, 64, 65, 512)]
  assert limits == [300, 300, 360, 720]
  assert ProcessesConfig(start_seconds=7).start_limit(512) == 7
  with pytest.raises(UserError, match='start_seconds must be whole'):
    ProcessesConfig(start_seconds=-1)
