"""`mpsl plan`: finds the cuts, the node of each part, and the time of a round. It only reads files."""

from pathlib import Path

import click

from mpsl import facts, strict_json
from mpsl.errors import UsageError
from mpsl.planning.fleet import Fleet
from mpsl.planning.objective import Shape
from mpsl.planning.profile_file import Profile
from mpsl.planning.report import chain_picture, compare, comparison, stragglers, summary
from mpsl.planning.system import system_of
from mpsl.text_file import read_json, read_toml
from orchestrator.chosen_plan import chosen_plan
from orchestrator.commands.fleet_template import FLEET_TEMPLATE
from orchestrator.commands.new import write_new

MAX_DIGITS = 6
"""Maximum digits of a number of hops."""


def read_profile(path: Path) -> Profile:
    """The PROFILE.json at `path`. Raises UsageError naming the file and the key."""
    return facts.read(Profile, read_json(path), str(path))


def read_fleet(path: Path) -> Fleet:
    """The FLEET.toml at `path`. Raises UsageError naming the file and the key."""
    return facts.read(Fleet, read_toml(path), str(path))


@click.command()
@click.option("--profile", "profile_path", type=click.Path(path_type=Path), help="PROFILE.json; required.")
@click.option("--fleet", "fleet_path", type=click.Path(path_type=Path), help="FLEET.toml; required.")
@click.option(
    "--new",
    "new_path",
    type=click.Path(path_type=Path),
    metavar="FLEET.toml",
    help="Only write a commented fleet.",
)
@click.option(
    "--hops", metavar="N|auto", default="auto", show_default=True, help="Exactly N stages of one replica, or auto."
)
@click.option("--objective", type=click.Choice(["time", "cost"]), default="time", show_default=True)
@click.option("--compare", "compared", is_flag=True, help="Also print other ways to use the same nodes.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as one JSON object on the last line.")
def plan(
    *, profile_path: Path | None, fleet_path: Path | None, new_path: Path | None, hops: str, objective: str,
    compared: bool, as_json: bool,
) -> None:  # fmt: skip
    """Find the cuts and the placement with the shortest round, or the cheapest one. Exit status 2 if none fits."""
    if new_path is not None:
        if profile_path or fleet_path:
            raise click.UsageError("--new only writes a fleet file; leave out --profile and --fleet")
        try:
            write_new(new_path, FLEET_TEMPLATE)
        except UsageError as error:
            raise click.UsageError(str(error)) from None
        click.echo(f"{new_path}: ready to be changed; then `mpsl plan --profile PROFILE.json --fleet {new_path}`")
        return
    if profile_path is None or fleet_path is None:
        raise click.UsageError(f"Missing option '{'--fleet' if profile_path else '--profile'}'.")
    cheapest = objective == "cost"
    try:
        exactly = _hops(hops)
        profile, fleet = read_profile(profile_path), read_fleet(fleet_path)
        system = system_of(profile, fleet)
        choice = chosen_plan(profile, fleet, Shape(exactly), cheapest)
        rows = compare(system, cheapest, exactly) if compared else []
    except UsageError as error:
        raise click.UsageError(str(error)) from None
    found = choice.plan
    click.echo(f"{profile.model}, batches of {profile.batch_size}\n", err=as_json)
    click.echo(chain_picture(system, found), err=as_json)
    if slow := stragglers(system, found):
        click.echo(f"\n{slow}", err=as_json)
    click.echo(f"\n{summary(choice)}", err=as_json)
    if rows:
        click.echo(f"\n{comparison(rows)}", err=as_json)
    if as_json:
        shown = facts.plain(found) | ({"compare": facts.plain(rows)} if compared else {})
        click.echo(strict_json.dumps(shown))


def _hops(text: str) -> int | None:
    if text == "auto":
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise UsageError(f"--hops {text}: give a number of hops, or auto")
    return int(text)
