"""The `nbsight` command."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import click

from nbsight.errors import NbsightError
from nbsight.server.access import new_key, read_keys
from nbsight.server.doctor import examine, table
from nbsight.server.serving import serve
from nbsight.server.settings import Settings, Tier, is_loopback
from nbsight.wire.api import Limits
from nbsight.wire.discovery import data_dir, save_key

__all__ = ["main"]


class _Commands(click.Group):
    """Errors of nbsight's are sentences; a traceback would not help who typed a command."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NbsightError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Commands)
def main() -> None:
    """Look inside models, on this computer and on others."""


@main.command("serve")
@click.argument("models", nargs=-1)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8765, show_default=True, help="Port; 0 takes a free one.")
@click.option("--public-url", default="", help="Where a proxy lets others reach it: https://host/path.")
@click.option("--tier", type=click.Choice(["local", "program", "sandbox"]), help="What a job may do.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 10_000), help="Processes per model."
)
@click.option("--device-map", help="Where weights go, as in transformers: cpu, cuda, auto.")
@click.option("--dtype", help="The weights' dtype, such as bfloat16.")
@click.option("--api-keys", type=click.Path(path_type=Path), help="A file of `owner key` lines.")
@click.option("--data", type=click.Path(path_type=Path), help="The folder that holds the jobs.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds that a job may run.")
@click.option("--memory", type=float, help="GB a job may take beyond its model; 0: no limit. [program: 4]")
@click.option("--max-result", default=4.0, show_default=True, help="GB of a result.")
@click.option("--max-request", default=1.0, show_default=True, help="GB of a job.")
@click.option("--max-queued", default=1000, show_default=True, help="Jobs of one owner that wait.")
@click.option("--max-running", default=4, show_default=True, help="Jobs of one owner that run.")
@click.option("--rate", default=100.0, show_default=True, help="Jobs per second and owner.")
@click.option("--keep", default=24.0, show_default=True, help="Hours that results are kept.")
@click.option(
    "--share", "shares", multiple=True, metavar="OWNER=N", help="What an owner may use beside others. [1]"
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray", "slurm"]),
    default="local",
    show_default=True,
    help="Where workers run.",
)
@click.option(
    "--engine-option", "engine_options", multiple=True, metavar="NAME=VALUE", help="What the engine is told."
)
@click.option("--idle", default=10.0, show_default=True, help="Minutes a cluster's idle worker stays.")
@click.option("--loads/--no-loads", default=None, help="Load other models when a job asks (tier local).")
@click.option(
    "--logs", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Style of the log."
)
@click.option("--doctor", is_flag=True, help="Look whether all of this would work, and start nothing.")
def serve_command(models: tuple[str, ...], logs: Any, doctor: bool, **given: Any) -> None:
    """Serve MODELS (names or folders; by default the one that ships with nbsight)."""
    settings = _settings(models or ("nbsight/demo",), given)
    if not doctor:
        serve(settings, click.echo, logs)
        return
    findings = examine(settings)
    click.echo(table(findings))
    raise SystemExit(any(finding.verdict == "fail" for finding in findings))


def _settings(models: tuple[str, ...], given: dict[str, Any]) -> Settings:
    for_others = (
        not is_loopback(given["host"]) or Settings((), Path(), public_url=given["public_url"]).is_public
    )
    tier: Tier = given["tier"] or ("program" if for_others else "local")
    options = {name: given[name] for name in ("device_map", "dtype") if given[name]}
    return Settings(
        models=tuple(dict.fromkeys(models)),
        data=given["data"] or data_dir() / "jobs",
        host=given["host"],
        port=given["port"],
        public_url=given["public_url"],
        tier=tier,
        keys=read_keys(given["api_keys"]) if given["api_keys"] else {},
        workers=given["workers"],
        loads=tier == "local" if given["loads"] is None else given["loads"],
        options=options,
        limits=_limits(tier, given),
        shares={owner: _share(owner, value) for owner, value in _pairs(given["shares"])},
        engine=given["engine"],
        engine_options=dict(_pairs(given["engine_options"])),
        idle=given["idle"] * 60,
    )


def _pairs(given: tuple[str, ...]) -> list[tuple[str, str]]:
    """`NAME=VALUE` options."""
    for text in given:
        if "=" not in text:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE.")
    return [(name, value) for name, _, value in (text.partition("=") for text in given)]


def _share(owner: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not 0 < share < float("inf"):
        raise click.BadParameter(f"the share of {owner} is {value!r}; it is a positive number, such as 2.")
    return share


def _limits(tier: Tier, given: dict[str, Any]) -> Limits:
    """The limits that the options ask for."""
    giga = 2**30
    memory = given["memory"]
    if memory is None:  # who is not trusted is limited even when nobody thinks of it
        memory = 0.0 if tier == "local" else 4.0
    return Limits(
        seconds=given["timeout"],
        memory=int(memory * giga),
        request=int(given["max_request"] * giga),
        result=int(given["max_result"] * giga),
        queued=given["max_queued"],
        running=given["max_running"],
        rate=given["rate"],
        burst=max(1, int(5 * given["rate"])),
        keep=given["keep"] * 3600,
    )


@main.command("new-key")
@click.argument("owner", default="me")
def new_key_command(owner: str) -> None:
    """Make a key for OWNER: one line for them, one for the server's file."""
    key = new_key()
    click.echo(f"the key, for {owner}: {key}")
    click.echo(f"the line for --api-keys: {owner} sha256:{hashlib.sha256(key.encode()).hexdigest()}")


_where = click.option("--url", help="The server; by default the one that remote=True would take.")


@main.command("login")
@click.argument("url")
@click.option("--key", prompt=True, hide_input=True, help="The key; asked for if it is not given.")
def login_command(url: str, key: str) -> None:
    """Keep the key for the server at URL, outside any notebook."""
    from nbsight.remote.client import Client

    client = Client(url, key)
    owner = client.whoami()
    path = save_key(client.url, key)
    click.echo(f"{client.url} knows you as {owner}; the key is kept in {path}")


@main.command("status")
@_where
def status_command(url: str | None) -> None:
    """What the server is and has."""
    from nbsight.remote.addresses import find_client

    click.echo(find_client(url or True).describe())


@main.command("jobs")
@_where
@click.option("--limit", default=20, show_default=True)
@click.option("--cancel", metavar="ID", help="End a job.")
def jobs_command(url: str | None, limit: int, cancel: str | None) -> None:
    """Your jobs, newest first."""
    from nbsight.remote.addresses import find_client
    from nbsight.remote.tables import jobs_table

    client = find_client(url or True)
    if cancel:
        info = client.cancel(cancel)
        click.echo(f"{info.id}: {info.state}")
    else:
        click.echo(jobs_table(client.jobs(limit), time.time()))
