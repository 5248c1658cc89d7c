"""What the control plane's commands share: options, the managers that they name, an order and what is shown of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import checked_duration
from shoal.options import parse_duration
from shoal_server.config import ConfigError, load_config

from shoal_shardmanager.cli_output import follow, print_operation, print_plan
from shoal_shardmanager.rpc.client import ManagersClient
from shoal_shardmanager.rpc.generated import admin_pb2 as pb
from shoal_shardmanager.rpc.names import MANAGERS_VARIABLE

DEFAULT_MANAGERS = "127.0.0.1:7550"

ManagersOption = Annotated[
    str | None,
    typer.Option(
        "--managers",
        envvar=MANAGERS_VARIABLE,
        metavar="HOST:PORT,...",
        help=f"The managers' admin addresses.  [default: those of --config, else {DEFAULT_MANAGERS}]",
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A cluster.yaml that says where the managers are.")
]
PlanOption = Annotated[bool, typer.Option("--plan", help="Only show the checked steps; do nothing.")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")]
VersionOption = Annotated[
    int, typer.Option("--if-version", min=0, help="Refuse unless the shard map is of this version; 0: whatever it is.")
]
TimeoutOption = Annotated[
    str,
    typer.Option(
        "--timeout", metavar="DURATION", callback=checked_duration, help="How long a manager may take to answer."
    ),
]
ShardArgument = Annotated[int, typer.Argument(metavar="SHARD", help="The shard's number.")]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="The node's id.")]
DEFAULT_TIMEOUT = "10s"


def environment() -> dict[str, str]:
    """Return the environment without what is for the command line alone."""
    return {name: value for name, value in os.environ.items() if name != MANAGERS_VARIABLE}


def client_of(managers: str | None, config: Path | None, timeout: str) -> ManagersClient:
    """Return a client of the managers that the options name."""
    seconds = parse_duration(timeout)
    if managers:
        return ManagersClient([address.strip() for address in managers.split(",") if address.strip()], seconds)
    if config is None:
        return ManagersClient([DEFAULT_MANAGERS], seconds)
    try:
        cluster = load_config(config, environment())
    except ConfigError as error:
        raise CommandFailed(f"the configuration is refused:\n{error}", ExitCode.USAGE) from error
    addresses = [entry.admin for entry in cluster.managers if entry.admin]
    if not addresses:
        raise CommandFailed(f"{config} names no manager with an `admin:` address", ExitCode.USAGE)
    return ManagersClient(addresses, seconds)


def run_order(
    request: pb.StartRequest, client: ManagersClient, plan: bool, detach: bool, if_version: int, as_json: bool
) -> None:
    """Give an order, and show it to its end, its plan alone, or how it began."""
    request.plan_only, request.if_version = plan, if_version
    reply = client.start(request)
    if plan:
        print_plan(reply, as_json=as_json)
    elif detach:
        print_operation(reply.operation, as_json=as_json)
    else:
        follow(client, reply.operation.id, as_json=as_json)
