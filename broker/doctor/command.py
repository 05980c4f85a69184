"""`mpsl doctor`: one line a check. It changes nothing, and clears what it had the broker keep."""

import asyncio

import click

from broker.doctor.broker_checks import CHECKS, BrokerExamination
from broker.doctor.finding import Finding, skipped
from broker.doctor.identity_checks import check_identity
from broker.doctor.machine_checks import check_machine
from broker.doctor.network_path import check_path
from broker.options import NetworkOptions, default_id, looking_options
from broker.tap import printable, printing
from mpsl import strict_json


@click.command()
@looking_options
@click.option("--id", "id", help="Whose set-up it is.  [default: that of the certificate]")
@click.option("--deep", is_flag=True, help="Also send a large packet, and compute a step with torch.")
def doctor(*, network: NetworkOptions, id: str | None, deep: bool) -> int:
    """Check broker, certificate, access rules and machine: ok, or problem → cause → what to do.

    Exit status 1 where there is a problem.
    """
    findings = asyncio.run(examine(network, id, deep))
    healthy = all(finding.status != "problem" for finding in findings)
    with printing():
        if network.as_json:
            print(strict_json.dumps({"ok": healthy, "checks": [finding.facts for finding in findings]}))
        else:
            for finding in findings:
                print(printable(finding.line))
    return 0 if healthy else 1


async def examine(network: NetworkOptions, id: str | None, deep: bool) -> list[Finding]:
    """All checks, in the order of their dependence."""
    member = network.member
    path = await check_path(network.address)
    own = id or (member.id if member else None)
    if all(finding.status == "ok" for finding in path) or path[-1].text.startswith("not used"):
        name = member.id if member else own or network.address.user or default_id("doctor")
        examination = BrokerExamination(network.address, network.topics, member, name, deep)
        broker = await examination.findings()
    else:
        broker = [skipped(check, "needs the connection") for check in CHECKS]
    return [*path, *check_identity(network.address, member, id), *broker, *check_machine(member, deep)]
