"""`mpsl train`: runs the orchestrator of one run."""

import asyncio
import secrets
import sys
from pathlib import Path
from typing import Any

import click

from broker.driver import Driver
from broker.options import NetworkOptions, network_options, new_boot
from broker.own_certificate import check_own_role
from broker.service import drive
from broker.worker import Worker
from mpsl import strict_json
from mpsl.errors import BrokerError, UsageError
from mpsl.job import Job
from mpsl.machines.effects import Stop
from mpsl.machines.orchestrator import OrchestratorMachine
from mpsl.names import ORCHESTRATOR
from mpsl.planning.plan_file import PlannedRun
from mpsl.topics import client_id
from orchestrator.job_file import load_job, load_planned_job
from orchestrator.plan_option import plan_option, say_overruled
from orchestrator.progress import Progress, loss_shown
from orchestrator.run_folder import force_option, run_folder

PATIENCE_S = 10.0


@click.command()
@network_options
@click.argument("job", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where model and metrics go."
)
@force_option
@plan_option
def train(*, network: NetworkOptions, job: Path, out: Path, force: bool, plan: Path | None) -> int:
    """Wait for the nodes and devices of JOB, train, and write model, metrics and summary to DIR."""
    check_own_role(network.member, "orchestrator", "train")
    planned = None
    if plan is None:
        training = load_job(job)
    else:
        training, planned, overruled = load_planned_job(job, plan)
        say_overruled(plan, overruled)
    with run_folder(out, force, may_go_on=True, inputs=[job, *([plan] if plan else [])]):
        return report(network, out, asyncio.run(orchestrate(network, training, out, planned)))


def report(network: NetworkOptions, out: Path, summary: dict[str, Any]) -> int:
    """Report how a run ended, on stderr and, with --json, as one line of JSON. Returns the exit status."""
    if summary["state"] == "done":
        accuracy = summary["accuracy"]
        shown = "without test data" if accuracy is None else f"accuracy {accuracy:.2%}"
        print(f"done: {shown}, loss {loss_shown(summary['loss'])}, {summary['seconds']:.1f} s", file=sys.stderr)
        print(f"model: {out / 'model.safetensors'}  metrics: {out / 'metrics.jsonl'}", file=sys.stderr)
    else:
        print(f"Error: {summary['reason']}", file=sys.stderr)
    if network.as_json:
        print(strict_json.dumps(summary))
    return 0 if summary["state"] == "done" else 1


def check_security(network: NetworkOptions, job: Job) -> None:
    """Raise UsageError where the job demands more than our connection to the broker gives."""
    brokers = (network.address, *network.address.alternatives)
    if job.security.require is not None and not all(broker.is_private for broker in brokers):
        raise UsageError(
            f"the job has [security] require = {job.security.require!r}, and --broker {network.address.shown} is "
            "without TLS; use mqtts://"
        )


async def orchestrate(
    network: NetworkOptions, job: Job, out: Path, planned: PlannedRun | None = None
) -> dict[str, Any]:
    """Run one job to its end, with the plan where there is one, and return its summary."""
    from mpsl.nn.threads import computing_worker
    from orchestrator.performer import OrchestratorPerformer
    from orchestrator.records import circumstances
    from orchestrator.unfinished_run import unfinished_run

    check_security(network, job)
    unfinished = unfinished_run(out, job, planned)
    run = unfinished.manifest.run if unfinished else f"{job.run.name}-{secrets.token_hex(3)}"
    boot = new_boot()
    if unfinished is not None:
        network.logger(role="orch")("info", "goes-on", {"run": run, "round": unfinished.committed, "out": str(out)})
    machine = OrchestratorMachine(job, run, boot, network.topics, planned, unfinished)
    machine.summary.update(circumstances(job))
    performer = OrchestratorPerformer(out, run, unfinished)
    progress = Progress(machine, network.verbose)
    driver = Driver(
        machine,
        performer,
        network.address,
        client_id("orch", ORCHESTRATOR, boot),
        progress.logger(network.logger(role="orch")),
        patience_s=PATIENCE_S,
        worker=Worker(computing_worker(1)),
    )
    async with progress:
        stop: Stop | None = None
        try:
            stop = await drive(driver)
        except BrokerError as error:
            machine.summary.update(state="failed", reason=str(error))
            performer.fail(machine.summary)
    summary = performer.summary or machine.summary
    if stop is not None and stop.status:
        summary["reason"] = summary["reason"] or stop.reason
    return summary
