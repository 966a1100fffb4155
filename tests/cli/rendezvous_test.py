"""Processes meet, or each is told why not; strangers neither count nor stop."""

from concurrent import futures
import contextlib
import json
import socket
import time

import pytest

from drope_jax import exits
from drope_jax.cli import rendezvous
from drope_jax.cli.rendezvous import Place


@pytest.fixture
def address() -> str:
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return f"127.0.0.1:{free.getsockname()[1]}"


def _fits(facts):
  return None


def _meet(*places, judge=_fits, timeout_s=60, meanwhile=lambda: None):
  """Returns what each process was told, None where nothing keeps it."""

  def meet(place):
    facts = {"of": place.index, "host": {"name": f"w-{place.index}"}}
    try:
      met = rendezvous.meet(place, facts, judge, timeout_s)
      assert [host["name"] for host in met.values()] == [
        f"w-{index}" for index in range(place.count)
      ]
      assert [*met] == [*range(place.count)]
    except exits.HostLost as error:
      return f"lost: {error}"
    except ValueError as error:
      return str(error)

  with futures.ThreadPoolExecutor(len(places)) as pool:
    told = [pool.submit(meet, place) for place in places[:1]]
    meanwhile()
    told += [pool.submit(meet, place) for place in places[1:]]
    return [one.result() for one in told]


def _places(address, *indices, of=None):
  return [Place(address, of or len(indices), index) for index in indices]


def test_the_first_hears_all_and_all_hear_what_it_finds(address):
  heard = []

  def judge(facts):
    heard.append({index: said["of"] for index, said in facts.items()})
    return "they do not fit" if len(heard) > 1 else None

  places = _places(address, 0, 1, 2)
  assert _meet(*places, judge=judge) == [None] * 3
  assert _meet(*places, judge=judge) == ["they do not fit"] * 3
  assert heard == [{0: 0, 1: 1, 2: 2}] * 2
  assert [*heard[0]] == [0, 1, 2]


def test_all_that_came_are_told_which_are_missing(address):
  told = _meet(*_places(address, 0, 2, of=4), timeout_s=1)
  assert told[0] == (
    "lost: 4 processes are needed, got 2 within 1 s: 1, 3 missing. Start one "
    "on each host, and let all reach TCP port "
    f"{address.split(':')[1]} of 127.0.0.1."
  )
  assert told == told[:1] * 2
  (told,) = _meet(*_places(address, 1, of=2), timeout_s=0.3)
  assert "lost: Process 0 is needed, got none within 0.3 s at TCP port" in told


def test_strangers_are_neither_counted_nor_waited_for(address):
  place = Place(address, 2, 0)
  strangers = contextlib.ExitStack()

  def visit():
    for said in (b"", b"1", b"1\n", b"[" * 100_000 + b"\n", b"x" * (1 << 21)):
      stranger = strangers.enter_context(_connected(place))
      with contextlib.suppress(OSError):  # It may be cut off for its length.
        stranger.sendall(said)

  with strangers:
    assert _meet(*_places(address, 0, 1), meanwhile=visit) == [None] * 2


def _connected(place) -> socket.socket:
  while True:
    with contextlib.suppress(ConnectionRefusedError):
      return socket.create_connection((place.host, place.port))


def test_a_number_beyond_the_count_is_named_to_all(address):
  told = _meet(Place(address, 3, 0), Place(address, 4, 3))
  expected = "waits for are numbered from 0, got number 3 of 4 from 127.0.0.1"
  assert all(expected in one for one in told)


@contextlib.contextmanager
def _said_hello(place, index, signature=None, ahead_s=0.0):
  """Gives what a process reads from that it has told of itself."""
  with _connected(place) as connection, connection.makefile("rw") as stream:
    nonce = json.loads(stream.readline())["nonce"]
    hello = {"index": index, "count": place.count, "facts": {}}
    hello["hmac"] = signature or rendezvous._sign(nonce, {})
    hello["clock"] = time.time() + ahead_s
    stream.write(json.dumps(hello) + "\n")
    stream.flush()
    yield connection, stream


def test_a_number_that_comes_twice_is_named_to_all(address):
  first = Place(address, 3, 0)
  heard = []

  def come_twice():
    with _said_hello(first, 1) as (_, one), _said_hello(first, 1) as (_, two):
      heard.extend(json.loads(s.readline())["problem"] for s in (one, two))

  heard += _meet(first, meanwhile=come_twice)
  assert len(heard) == 3
  expected = "got number 1 twice, the second time from 127.0.0.1"
  assert all(expected in one for one in heard)


def test_a_process_with_another_token_is_told_and_not_counted(
  address, monkeypatch
):
  unset = rendezvous._sign("nonce", {})
  monkeypatch.setenv(rendezvous.TOKEN, "ours")
  assert rendezvous._sign("nonce", {}) != unset
  first, second = _places(address, 0, 1)

  def come():
    with _said_hello(first, 1, signature=unset) as (_, stream):
      told = json.loads(stream.readline())["problem"]
    assert "need the DROPE_RENDEZVOUS_TOKEN of process 0, got another" in told

  assert _meet(first, second, meanwhile=come) == [None] * 2


def test_a_process_that_died_while_it_waited_may_come_again(address):
  first, *others = _places(address, 0, 1, 2)

  def come_and_go():
    with _said_hello(first, 1) as (connection, stream):
      connection.shutdown(socket.SHUT_WR)
      assert stream.read() == ""  # Until it is no longer counted.

  assert _meet(first, *others, meanwhile=come_and_go) == [None] * 3


def test_the_first_hears_by_how_much_a_clock_is_ahead(address):
  first, ahead = Place(address, 2, 0), []

  def judge(facts):
    ahead.extend(said["host"]["ahead_s"] for said in facts.values())
    return "one is"

  def come():
    with _said_hello(first, 1, ahead_s=100.0) as (_, stream):
      assert json.loads(stream.readline())["problem"] == "one is"

  assert _meet(first, judge=judge, meanwhile=come) == ["one is"]
  # A message takes its time, the less of it the less busy the machine is.
  assert ahead == [pytest.approx(0, abs=1), pytest.approx(100, abs=20)]


def test_it_listens_at_the_address_given_alone(address):
  place = Place(address, 2, 0)

  def try_another():
    _connected(place).close()
    with pytest.raises(ConnectionRefusedError):
      socket.create_connection(("127.0.0.2", place.port))

  assert _meet(*_places(address, 0, 1), meanwhile=try_another) == [None] * 2


def _resolving_to(*addresses):
  def getaddrinfo(host, port, type):
    return [(socket.AF_INET, type, 6, "", (one, 0)) for one in addresses]

  return getaddrinfo


@pytest.mark.parametrize(
  ("host", "resolved", "own"),
  [
    ("127.0.0.1", ["127.0.0.1"], ["127.0.0.1"]),
    ("localhost", ["127.0.0.1"], ["127.0.0.1"]),
    # Debian's /etc/hosts: others know this name by another address.
    ("worker-0", ["127.0.1.1"], []),
    # No machine has TEST-NET's.
    ("service", ["192.0.2.1"], []),
    ("192.0.2.1", ["192.0.2.1"], []),
    ("0.0.0.0", ["0.0.0.0"], []),
  ],
)
def test_it_listens_where_others_reach_it(monkeypatch, host, resolved, own):
  monkeypatch.setattr(socket, "getaddrinfo", _resolving_to(*resolved))
  assert rendezvous.own_hosts(host) == own


def _has_ipv6() -> bool:
  try:
    with socket.create_server(("::1", 0), family=socket.AF_INET6):
      return True
  except OSError:
    return False


@pytest.mark.skipif(not _has_ipv6(), reason="no IPv6")
def test_an_address_may_be_of_ipv6(address):
  places = _places(f"[::1]:{address.split(':')[1]}", 0, 1)
  assert rendezvous.own_hosts("::1") == ["::1"]
  assert _meet(*places) == [None] * 2


def test_a_port_that_is_taken_is_named(address):
  place = Place(address, 2, 0)
  with socket.create_server((place.host, place.port)):
    (told,) = _meet(place)
  assert f"must listen at TCP port {place.port} of 127.0.0.1, but" in told
  assert "already in use" in told


@pytest.mark.parametrize(
  ("arguments", "told"),
  [
    (("host", 2, 0), "must be HOST:PORT, got 'host'"),
    ((":80", 2, 0), "must be HOST:PORT, got ':80'"),
    (("host:0", 2, 0), "must be HOST:PORT, got 'host:0'"),
    (("host:65536", 2, 0), "must be HOST:PORT, got 'host:65536'"),
    (("host:80", 2, 2), "2 processes of a run are numbered from 0, got number"),
  ],
)
def test_a_place_that_cannot_be_is_refused(arguments, told):
  with pytest.raises(ValueError, match=told):
    Place(*arguments)
