"""What the broker does for us: it takes us, its access rules are those of our role, and it keeps what it should.

Everything goes over topics that nobody else acts on: our own `res`, which is reserved, and a run that does not exist.
Retained messages are cleared. Other members' topics are written only to see that the broker refuses it.
"""

import asyncio
import contextlib
import secrets
import statistics
from collections.abc import AsyncIterator, Sequence

from broker.address import BrokerAddress
from broker.connection import Connection, PublishRefused, connect
from broker.doctor.finding import Finding, explained_problem, ok, problem, skipped
from mpsl.errors import BrokerError
from mpsl.identity.fleet_member import FleetMember
from mpsl.names import ORCHESTRATOR
from mpsl.publish import Publish
from mpsl.topics import Branch, Topics, client_id

CHECKS = ("MQTT", "access rules", "packet size", "retained", "last will", "round trip")
PATIENCE_S = 5.0
ROUND_TRIPS = 10
SLOW_S = 2.0
"""A round trip beyond this makes signs of life late."""
CHUNK_BYTES = 1064960
"""The default `chunk_bytes` of a job."""
STRANGER = "doctors-stranger"
"""An id that no member should have."""


class BrokerExamination:
    """The checks of one broker, by one member or (None) by somebody without a certificate, under `id`."""

    def __init__(self, address: BrokerAddress, topics: Topics, member: FleetMember | None, id: str, deep: bool) -> None:
        self._address = address
        self._topics = topics
        self._member = member
        self._deep = deep
        self._run = f"doctor-{secrets.token_hex(3)}"
        self._me = ORCHESTRATOR if member is not None and member.role == "orchestrator" else id
        self._inbox = topics.binary(self._run, self._me, "ctl", self._me)
        branch: Branch = "node" if member is not None and member.role == "node" else "dev"
        own = topics.participant(branch, self._me, "res")
        self._kept = topics.run(self._run, "metrics") if self._me == ORCHESTRATOR else own
        """A topic that we may write and read, and that may be retained."""

    async def findings(self) -> list[Finding]:
        """All checks; where the broker does not take us, the others are skipped."""
        try:
            async with self._connected() as connection:
                taken = ok("MQTT", f"{'5' if self._address.version == '5' else '3.1.1'}, the broker takes us")
                return [taken, *await self._examine(connection)]
        except BrokerError as error:
            refused = explained_problem("MQTT", "the broker does not take us", str(error), "see the broker's log")
            return [refused, *(skipped(check, "needs MQTT") for check in CHECKS[1:])]

    @contextlib.asynccontextmanager
    async def _connected(self, will: Publish | None = None) -> AsyncIterator[Connection]:
        name = client_id("doctor", self._me, secrets.token_hex(8))
        async with connect(self._address, name, will, patience_s=PATIENCE_S) as connection:
            yield connection

    async def _examine(self, connection: Connection) -> list[Finding]:
        if self._member is not None and self._member.role == "viewer":
            rules = await self._rules(connection, [], self._forbidden())
            return [rules, self._packets(connection)] + [
                skipped(check, "a viewer writes nothing") for check in CHECKS[3:]
            ]
        await connection.subscribe((self._inbox, self._kept))
        rules = await self._rules(connection, [self._inbox, self._kept], self._forbidden())
        if rules.status == "problem" and "may not" in rules.text:
            why = "needs the access rules"
            return [rules, self._packets(connection), *(skipped(check, why) for check in CHECKS[3:])]
        packets = await self._large_packet(connection) if self._deep else self._packets(connection)
        kept, will = await self._retained(), await self._will(connection)
        return [rules, packets, kept, will, await self._trips(connection)]

    def _forbidden(self) -> list[str]:
        """What our role may not write."""
        topics, member = self._topics, self._member
        if member is None:
            return []
        found = [topics.participant("dev", STRANGER, "res"), topics.binary(self._run, STRANGER, "ctl", STRANGER)]
        found.append(Topics(f"{topics.net[:24]}-doctor").participant("dev", member.id, "res"))
        if member.role != "orchestrator":
            found += [topics.run(self._run, "metrics"), topics.binary(self._run, STRANGER, "ctl", ORCHESTRATOR)]
        if member.role == "device":
            found.append(topics.participant("node", member.id, "res"))
        return found

    async def _rules(self, connection: Connection, allowed: Sequence[str], forbidden: Sequence[str]) -> Finding:
        """Try what our role may write, and what it may not."""
        name = "access rules"
        role = "" if self._member is None else _a(self._member.role)
        for topic in allowed:
            try:
                await connection.publish(Publish(topic, b"{}", 1))
            except PublishRefused as error:
                who = f"the {self._member.role} {self._member.id}" if self._member else self._me
                cause = f"the broker refuses it: {error.reason}"
                remedy = (
                    "copy fleet/broker/acl to the broker and send it SIGHUP; is this member in `mpsl fleet list`?"
                    if self._member
                    else "see its access rules for this user (docs/acl.example)"
                )
                return problem(name, f"{who} may not write {topic}", cause, remedy)
        if self._member is None:
            return ok(name, "our own topics can be written; without a certificate nothing says what cannot")
        if self._address.version != "5":
            return ok(name, "our own topics can be written; MQTT 3.1.1 does not tell what is refused")
        for topic in forbidden:
            with contextlib.suppress(PublishRefused):
                await connection.publish(Publish(topic, b"{}", 1))
                cause = "the broker does not use the access rules of this fleet, so others can pose as us, too"
                remedy = "run it with fleet/broker/mosquitto.conf"
                return problem(name, f"the broker lets {role} write {topic}", cause, remedy)
        return ok(name, f"those of {role}: {len(allowed)} writes taken, {len(forbidden)} refused")

    def _packets(self, connection: Connection) -> Finding:
        limit = connection.max_packet
        if limit is None:
            return ok("packet size", "the broker names no limit; --deep sends a large one")
        if limit < CHUNK_BYTES:
            cause = f"the broker takes at most {limit:,} bytes, and chunks have {CHUNK_BYTES:,}"
            remedy = "raise its limit (mosquitto: max_packet_size), or set [wire] chunk_bytes in the job"
            return problem("packet size", f"{limit:,} bytes", cause, remedy)
        return ok("packet size", f"at most {limit:,} bytes")

    async def _large_packet(self, connection: Connection) -> Finding:
        """Send a whole chunk to ourselves."""
        named = self._packets(connection)
        if named.status == "problem":
            return named
        payload = secrets.token_bytes(CHUNK_BYTES)
        try:
            async with self._connected() as other:
                await other.subscribe((self._inbox,))
                await other.publish(Publish(self._inbox, payload, 0))
                await _until(other, self._inbox, payload)
        except (BrokerError, TimeoutError) as error:
            cause = f"{str(error) or f'it does not arrive within {PATIENCE_S:g} s'}"
            remedy = "raise the broker's limit of a payload, or set [wire] chunk_bytes in the job"
            return problem("packet size", f"{CHUNK_BYTES:,} bytes do not come through", cause, remedy)
        return ok("packet size", f"{CHUNK_BYTES:,} bytes come through")

    async def _retained(self) -> Finding:
        """Publish retained, and look for it with another connection. A broker that keeps none may end the first."""
        payload = secrets.token_hex(8).encode()
        try:
            async with self._connected() as writer:
                await writer.publish(Publish(self._kept, payload, 1, True))
                try:
                    async with self._connected() as reader:
                        await reader.subscribe((self._kept,))
                        await _until(reader, self._kept, payload)
                finally:
                    await writer.publish(Publish(self._kept, b"", 1, True))
        except (BrokerError, TimeoutError) as error:
            cause = str(error) or f"a later subscriber does not get it within {PATIENCE_S:g} s"
            remedy = (
                "allow retained messages in the broker (mosquitto: retain_available), and reading them in its rules"
            )
            return problem("retained", "is not kept", cause, remedy)
        return ok("retained", "kept, given to a later subscriber, and cleared")

    async def _will(self, connection: Connection) -> Finding:
        """Break a connection that has a last will, and wait for it."""
        payload = secrets.token_hex(8).encode()
        try:
            async with self._connected(Publish(self._kept, payload, 1)) as other:
                other.abort()
            await _until(connection, self._kept, payload)
        except (BrokerError, TimeoutError) as error:
            cause = str(error) or f"the broker does not publish it within {PATIENCE_S:g} s"
            return problem("last will", "does not come", cause, "allow wills, and this topic, in the broker's rules")
        return ok("last will", "published when the connection broke")

    async def _trips(self, connection: Connection) -> Finding:
        loop = asyncio.get_running_loop()
        seconds = []
        try:
            for _ in range(ROUND_TRIPS):
                payload, begun = secrets.token_hex(8).encode(), loop.time()
                await connection.publish(Publish(self._inbox, payload, 1))
                await _until(connection, self._inbox, payload)
                seconds.append(loop.time() - begun)
        except (BrokerError, TimeoutError) as error:
            cause = str(error) or f"what we send to ourselves does not come back within {PATIENCE_S:g} s"
            return problem("round trip", "no answer", cause, f"may {self._me} read {self._inbox}? See the access rules")
        median = statistics.median(seconds)
        text = f"{1e3 * median:.1f} ms, the median of {ROUND_TRIPS}; at most {1e3 * max(seconds):.1f} ms"
        if median > SLOW_S:
            return problem("round trip", text, "the link or the broker is busy", "see `mpsl bench link`")
        return ok("round trip", text)


def _a(noun: str) -> str:
    """The noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


async def _until(connection: Connection, topic: str, payload: bytes) -> None:
    """Wait for this message; raises TimeoutError when it does not come in time."""
    async with asyncio.timeout(PATIENCE_S):
        async for arrived in connection.messages():
            if arrived.topic == topic and bytes(arrived.payload) == payload:
                return
