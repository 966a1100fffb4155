"""The processes of a run meet here before JAX joins them.

JAX itself would wait until its time-out and then abort, without the numbers of
the missing processes; and two versions of JAX may not understand each other.
The first process listens at the coordinator's address, which JAX's service uses
afterwards. Each other process holds one connection to it. A message is one line
of JSON:

    first   {"rendezvous": "drope_jax", "nonce": N}
    other   {"index": 1, "count": 2, "facts": {...}, "clock": T, "hmac": H}
    first   {"problem": null, "lost": false, "hosts": {...}}, once all have come

H is the HMAC of N and the facts under DROPE_RENDEZVOUS_TOKEN, which all share,
and T the time of writing. The last message has a problem if the run cannot
start; "lost" says whether it is that processes are missing.
"""

import asyncio
from collections.abc import Callable, Mapping, Set
import contextlib
import dataclasses
import hmac
import ipaddress
import json
import os
import re
import secrets
import socket
import time
from typing import Any, NamedTuple

from drope_jax.exits import HostLost

TOKEN = "DROPE_RENDEZVOUS_TOKEN"
BIND_ADDRESS = "JAX_COORDINATOR_BIND_ADDRESS"
"""JAX's own variable: where the first process listens, if it is set."""
_NAME = "drope_jax"
_REPLY_S = 10
_MESSAGE_BYTES = 1 << 20

Facts = Mapping[str, Any]
Hosts = Mapping[int, Facts]
"""Descriptions of their hosts, by process."""


@dataclasses.dataclass(frozen=True)
class Place:
  """A process's place in the run.

  Attributes:
    address: HOST:PORT or [HOST]:PORT of the first process.
    count: how many processes there are.
    index: the number of this process, from 0.
  """

  address: str
  count: int
  index: int

  def __post_init__(self):
    host, _, port = self.address.rpartition(":")
    if not host or not (port.isdecimal() and 0 < int(port) < 1 << 16):
      raise ValueError(
        "The first process's address must be HOST:PORT, got "
        f"{self.address!r}. Give both."
      )
    if not 0 <= self.index < self.count:
      raise ValueError(
        f"The {self.count} processes of a run are numbered from 0, got number "
        f"{self.index}. Correct the number, or the count."
      )

  @property
  def host(self) -> str:
    """The host of the first process, without brackets."""
    return _host(self.address)

  @property
  def port(self) -> int:
    """The port of the first process."""
    return int(self.address.rpartition(":")[2])


def meet(
  place: Place,
  facts: Facts,
  judge: Callable[[Mapping[int, Facts]], str | None],
  timeout_s: float,
) -> Hosts:
  """Returns once all processes have come and agree.

  Args:
    place: of this process.
    facts: about this process, in JSON types; all processes get its "host".
    judge: returns what is wrong with the facts of all processes; None: nothing.
      The first process calls it, and sends the result to the others. For it,
      "host" also has "ahead_s", the seconds by which the process's clock is
      ahead of the first process's.
    timeout_s: how long the first process waits for the others, and they for it.

  Returns:
    "host" of every process, in order.

  Raises:
    HostLost: some processes are missing.
    ValueError: some came twice, `judge` found a problem, or the first process
      cannot listen. All that have come raise the same.
  """
  if place.index == 0:
    verdict = asyncio.run(_lead(place, facts, judge, timeout_s))
  else:
    verdict = asyncio.run(_follow(place, facts, timeout_s))
  if verdict.problem is not None:
    raise (HostLost if verdict.lost else ValueError)(verdict.problem)
  return {int(index): host for index, host in verdict.hosts.items()}


def own_hosts(host: str) -> list[str]:
  """Returns the addresses of `host` at which this machine can listen.

  Empty if it has to listen at all of its addresses: `host` is none of them, as
  behind a service of Kubernetes; or means all; or is the machine's name, and
  resolves to a loopback address here (Debian's 127.0.1.1) but to another one on
  other machines.
  """
  try:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
  except OSError:  # The name may resolve later, as that of a new pod.
    return []
  own = []
  for *kind, _, sockaddr in found:
    with socket.socket(*kind) as trial, contextlib.suppress(OSError):
      trial.bind(sockaddr)
      own.append(ipaddress.ip_address(sockaddr[0]))
  if host != "localhost" and host not in map(str, own):
    own = [address for address in own if not address.is_loopback]
  return [str(address) for address in own if not address.is_unspecified]


class _Verdict(NamedTuple):
  """The last message of the first process."""

  problem: str | None = None
  lost: bool = False
  hosts: Hosts | Mapping[str, Facts] = {}


class _Gathering:
  """What the first process knows about the others."""

  def __init__(self, place: Place, facts: Facts):
    self.came: dict[int, Facts] = {}
    self._admit_facts(0, facts, time.time())
    self._place = place
    loop = asyncio.get_running_loop()
    self._complete = loop.create_future()
    self._verdict = loop.create_future()
    self._visits: set[asyncio.Task] = set()

  async def complete(self) -> str | None:
    """Returns None once all have come; or a conflict between two of them."""
    if self._place.count == 1:
      return None
    return await self._complete

  async def tell(self, verdict: _Verdict) -> None:
    """Tells all that have come."""
    self._verdict.set_result(verdict)
    if self._visits:
      await asyncio.wait(self._visits, timeout=_REPLY_S)

  async def receive(self, reader, writer) -> None:
    """Serves one connection."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
      try:
        async with asyncio.timeout(_REPLY_S):
          hello = await _interrogate(reader, writer)
        visit = asyncio.current_task()
        assert visit is not None
        self._visits.add(visit)
        await self._admit(hello, reader, writer)
      finally:
        writer.close()

  async def _admit(self, hello, reader, writer) -> None:
    index = hello["index"]
    problem = self._conflict(hello, writer.get_extra_info("peername")[0])
    if problem is None:
      self._admit_facts(index, hello["facts"], hello["clock"])
    complete = len(self.came) == self._place.count
    if (problem or complete) and not self._complete.done():
      self._complete.set_result(problem)
    ended = asyncio.ensure_future(reader.read(1))
    await asyncio.wait(
      {ended, self._verdict}, return_when=asyncio.FIRST_COMPLETED
    )
    if self._verdict.done():
      ended.cancel()
      await _send(writer, self._verdict.result()._asdict())
    elif problem is None:  # The process died, and may be started again.
      del self.came[index]

  def _admit_facts(self, index: int, facts: Facts, clock: float) -> None:
    host = {**facts.get("host", {}), "ahead_s": clock - time.time()}
    self.came[index] = {**facts, "host": host}

  def _conflict(self, hello, peer: str) -> str | None:
    index, count = hello["index"], self._place.count
    if hello["count"] != count or index not in range(1, count):
      return (
        f"The {count} processes that process 0 waits for are numbered from 0, "
        f"got number {index} of {hello['count']} from {peer}. Give each the "
        "same count and a number of its own."
      )
    if index in self.came:
      return (
        f"Each process needs a number of its own, got number {index} twice, "
        f"the second time from {peer}. Correct one of them."
      )
    return None


async def _lead(place, facts, judge, timeout_s) -> _Verdict:
  gathering = _Gathering(place, facts)
  async with await _listen(place, gathering.receive):
    try:
      async with asyncio.timeout(timeout_s):
        problem = await gathering.complete()
    except TimeoutError:
      missing = {*range(place.count)} - gathering.came.keys()
      told = _missing(place, sorted(missing), timeout_s)
      verdict = _Verdict(told, lost=True)
    else:
      came = dict(sorted(gathering.came.items()))
      hosts = {index: said["host"] for index, said in came.items()}
      verdict = _Verdict(problem or judge(came), hosts=hosts)
    await gathering.tell(verdict)
  return verdict


async def _listen(place, receive) -> asyncio.Server:
  chosen = os.environ.get(BIND_ADDRESS)  # With or without a port.
  host = _host(chosen) if chosen else place.host
  try:
    return await asyncio.start_server(
      receive, own_hosts(host) or None, place.port, limit=_MESSAGE_BYTES
    )
  except OSError as error:
    raise ValueError(
      f"Process 0 must listen at TCP port {place.port} of {host}, but cannot "
      f"({error.strerror}). End the program that does, or choose another port."
    ) from error


async def _interrogate(reader, writer) -> dict[str, Any]:
  """Returns the message of a process of this run.

  Raises:
    ValueError: it is no such process, or has another token. It is told so.
  """
  nonce = secrets.token_hex(16)
  await _send(writer, {"rendezvous": _NAME, "nonce": nonce})
  keys = {"index", "count", "facts", "clock", "hmac"}
  hello = await _receive(reader, keys)
  if not isinstance(hello["facts"], dict) or not isinstance(
    hello["clock"], float
  ):
    raise ValueError("no message of a process")
  if not hmac.compare_digest(str(hello["hmac"]), _sign(nonce, hello["facts"])):
    problem = (
      f"All processes need the {TOKEN} of process 0, got another. Set the same "
      "on each host."
    )
    await _send(writer, _Verdict(problem)._asdict())
    raise ValueError(problem)
  return hello


async def _follow(place, facts, timeout_s) -> _Verdict:
  clock = asyncio.get_running_loop().time
  deadline = clock() + timeout_s
  while clock() < deadline:
    # It has not started yet, or died, or another program listens there.
    with contextlib.suppress(OSError, ValueError, RecursionError):
      return await _visit(place, facts, timeout_s)
    await asyncio.sleep(0.2)
  return _Verdict(
    f"Process 0 is needed, got none within {timeout_s} s at TCP port "
    f"{place.port} of {place.host}. Start it there, and let all reach that "
    "port.",
    lost=True,
  )


async def _visit(place, facts, timeout_s) -> _Verdict:
  """Returns the last message of the first process."""
  async with asyncio.timeout(_REPLY_S):
    reader, writer = await asyncio.open_connection(
      place.host, place.port, limit=_MESSAGE_BYTES
    )
  try:
    async with asyncio.timeout(_REPLY_S):
      greeting = await _receive(reader, {"rendezvous", "nonce"})
      signature = _sign(greeting["nonce"], facts)
      hello = {"index": place.index, "count": place.count, "facts": facts}
      hello |= {"clock": time.time(), "hmac": signature}
      await _send(writer, hello)
    async with asyncio.timeout(timeout_s + _REPLY_S):
      return _Verdict(**await _receive(reader, {*_Verdict._fields}))
  finally:
    writer.close()


def _missing(place, missing, timeout_s) -> str:
  came = place.count - len(missing)
  return (
    f"{place.count} processes are needed, got {came} within {timeout_s} s: "
    f"{', '.join(map(str, missing))} missing. Start one on each host, and let "
    f"all reach TCP port {place.port} of {place.host}."
  )


def _host(address: str) -> str:
  return re.sub(r":\d*$", "", address).strip("[]")


def _sign(nonce: str, facts: Facts) -> str:
  key = os.environ.get(TOKEN, "")
  text = json.dumps([nonce, facts], sort_keys=True)
  return hmac.new(key.encode(), text.encode(), "sha256").hexdigest()


async def _send(writer, message: Mapping[str, Any]) -> None:
  writer.write(json.dumps(message).encode() + b"\n")
  await writer.drain()


async def _receive(reader, keys: Set[str]) -> dict[str, Any]:
  message = json.loads(await reader.readline())
  if not isinstance(message, dict) or message.keys() != keys:
    raise ValueError("no message of a rendezvous")
  return message
