"""Processes that meet, or find out who is missing; here they are threads."""

import concurrent.futures
import socket
import time

import pytest

from mixer_jax.errors import ApartError, UserError
from mixer_jax.parallel import rendezvous
from mixer_jax.parallel.membership import Membership


@pytest.fixture
def port(monkeypatch):
  monkeypatch.setattr(rendezvous, '_TICK', 0.05)
  monkeypatch.setattr(rendezvous, '_GRACE', 0.4)
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return free.getsockname()[1]


def meet(port, *members, seconds=10.0, host='127.0.0.1'):
  """Return what became of each (index, count): None, or its error."""
  with concurrent.futures.ThreadPoolExecutor(len(members)) as pool:
    started = [
      pool.submit(rendezvous.meet, Membership(f'{host}:{port}', count, index), seconds)
      for index, count in members
    ]
    return [one.exception() for one in started]


def test_all_meet_and_the_port_is_free_afterwards(port):
  for _ in range(2):  # a restart finds it at once
    assert meet(port, (2, 3), (0, 3), (1, 3)) == [None] * 3
    with socket.create_server(('127.0.0.1', port)):
      pass
  assert meet(port, (0, 1), host='localhost') == [None]


def test_all_that_came_name_those_that_did_not(port):
  errors = meet(port, (0, 5), (2, 5), seconds=0.3)
  for error in errors:
    assert isinstance(error, ApartError)
    assert 'processes 1, 3-4 of 5 did not come within 0.3 s' in str(error)


def test_a_process_that_started_earlier_names_them_too(port):
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    early = pool.submit(rendezvous.meet, Membership(f'127.0.0.1:{port}', 3, 1), 0.3)
    late = pool.submit(rendezvous.meet, Membership(f'127.0.0.1:{port}', 3, 0), 1.5)
    assert 'process 2 of 3 did not come yet, after 0.3 s' in str(early.exception())
    assert 'processes 1-2 of 3 did not come' in str(late.exception())  # 1 has gone meanwhile


def test_a_missing_process_0_is_named_with_its_address(port):
  (error,) = meet(port, (1, 2), seconds=0.2)
  assert isinstance(error, ApartError)
  assert f'process 0 of 2 did not come within 0.2 s (127.0.0.1:{port}: Conn' in str(error)


def test_a_host_without_an_address_is_named(port):
  for index in (0, 1):
    (error,) = meet(port, (index, 2), seconds=0.2, host='no-such-host.invalid')
    assert isinstance(error, ApartError)
    assert f'no-such-host.invalid:{port}' in str(error)


def test_processes_of_different_pods_are_wrong_input(port):
  errors = meet(port, (0, 2), (1, 3))
  assert all(isinstance(error, UserError) and not isinstance(error, ApartError) for error in errors)
  assert 'process 0 was started as one of 2' in str(errors[0])
  assert 'as number 1 of 3: start them alike' in str(errors[1])


def test_a_number_given_twice_is_wrong_input(port):
  errors = meet(port, (0, 3), (1, 3), (1, 3))
  assert all('were both started as process 1: number them' in str(error) for error in errors)


def test_strangers_at_the_port_change_nothing(port):
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    first = pool.submit(rendezvous.meet, Membership(f'127.0.0.1:{port}', 2, 0), 10)
    for said in (b'GET / HTTP/1.1\r\n\r\n', b'\xff' * 5000, b'mixer_jax x 2 me\n', b''):
      end = time.monotonic() + 5
      while True:
        try:
          with socket.create_connection(('127.0.0.1', port)) as stranger:
            stranger.sendall(said)
          break
        except OSError:
          assert time.monotonic() < end
          time.sleep(0.02)
    with socket.create_connection(('127.0.0.1', port)):  # one that says nothing
      second = pool.submit(rendezvous.meet, Membership(f'127.0.0.1:{port}', 2, 1), 10)
      assert (first.exception(), second.exception()) == (None, None)


def test_another_program_at_the_port_is_reported(port):
  with socket.create_server(('', port)) as other, concurrent.futures.ThreadPoolExecutor(1) as pool:
    (error,) = meet(port, (0, 2), seconds=0.2)
    assert f'port {port} of this machine cannot be used' in str(error)
    first = pool.submit(rendezvous.meet, Membership(f'127.0.0.1:{port}', 2, 1), 0.2)
    connection, _ = other.accept()
    connection.sendall(b'SSH-2.0-OpenSSH_9\r\n')
    other.close()
    connection.close()
    assert isinstance(first.exception(), ApartError)


@pytest.mark.parametrize(
  ('present', 'count', 'text'),
  [
    ({0}, 2, 'process 1 of 2'),
    ({0, 2}, 9, 'processes 1, 3-8 of 9'),
    (set(range(0, 50, 2)), 50, 'processes 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, … of 50'),
  ],
)
def test_missing_processes_are_listed_briefly(present, count, text):
  assert rendezvous.missing(present, count) == text
