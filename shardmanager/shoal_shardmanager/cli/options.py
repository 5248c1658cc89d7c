"""What the control plane's commands share: options, the managers that they name, a request and what is shown of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer
from shoal.bounds import MAX_SHARD, MAX_VERSION
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import JsonOption, checked_duration, checked_url
from shoal.options import parse_duration, parse_url
from shoal.tls import TlsFiles
from shoal_server.config import ClusterConfig, ConfigError, load_config

from shoal_shardmanager.cli.output import follow, print_operation, print_plan
from shoal_shardmanager.rpc.client import ManagersClient
from shoal_shardmanager.rpc.generated import admin_pb2 as pb
from shoal_shardmanager.rpc.names import MANAGERS_VARIABLE

DEFAULT_MANAGERS = "127.0.0.1:7550"


def _checked_managers(context: typer.Context, managers: str | None) -> str | None:
    """Option callback: addresses over TLS get the files that the options name."""
    return checked_url(context, managers) if managers and "://" in managers else managers


ManagersOption = Annotated[
    str | None,
    typer.Option(
        "--managers",
        envvar=MANAGERS_VARIABLE,
        metavar="HOST:PORT,...",
        callback=_checked_managers,
        help="The managers' admin addresses; shoals://HOST:PORT,... over TLS.  "
        f"[default: those of --config, else {DEFAULT_MANAGERS}]",
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A cluster.yaml that says where the managers are.")
]
PlanOption = Annotated[bool, typer.Option("--plan", help="Only show the checked steps; do nothing.")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")]
VersionOption = Annotated[
    int,
    typer.Option(
        "--if-version",
        min=0,
        max=MAX_VERSION,
        help="Refuse unless the shard map is of this version; 0: whatever it is.",
    ),
]
TimeoutOption = Annotated[
    str,
    typer.Option(
        "--timeout", metavar="DURATION", callback=checked_duration, help="How long a manager may take to answer."
    ),
]
ShardArgument = Annotated[int, typer.Argument(metavar="SHARD", min=0, max=MAX_SHARD, help="The shard's number.")]
OperationArgument = Annotated[int, typer.Argument(metavar="ID", min=0, max=MAX_VERSION, help="The operation's number.")]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="The node's id.")]
DEFAULT_TIMEOUT = "10s"


def environment() -> dict[str, str]:
    """Return the environment without what is for the command line alone."""
    return {name: value for name, value in os.environ.items() if name != MANAGERS_VARIABLE}


def client_of(managers: str | None, config: Path | None, timeout: str) -> ManagersClient:
    """Return a client of the managers that the options name."""
    seconds = parse_duration(timeout)
    if managers and "://" in managers:
        options = parse_url(managers)
        return ManagersClient(options.seeds, seconds, options.tls_files if options.tls else None)
    if managers:
        return ManagersClient([address.strip() for address in managers.split(",") if address.strip()], seconds)
    if config is None:
        return ManagersClient([DEFAULT_MANAGERS], seconds)
    cluster = cluster_of(config)
    addresses = [entry.admin for entry in cluster.managers if entry.admin]
    if not addresses:
        raise CommandFailed(f"{config} names no manager with an `admin:` address", ExitCode.USAGE)
    files = process_files(cluster, certificate=cluster.tls.clients == "required")
    return ManagersClient(addresses, seconds, files)


def cluster_of(config: Path) -> ClusterConfig:
    """Return the configuration of a cluster.

    Raises:
        CommandFailed: it cannot be read, or something in it is wrong.
    """
    try:
        return load_config(config, environment())
    except ConfigError as error:
        raise CommandFailed(f"the configuration is refused:\n{error}", ExitCode.USAGE) from error


def process_files(cluster: ClusterConfig, *, certificate: bool) -> TlsFiles | None:
    """Return what a command uses of the files of a cluster's processes; None: these are without TLS.

    Args:
        certificate: whether their own certificate stands in for one of the operator's.
    """
    tls = cluster.tls
    if not tls.on:
        return None
    if not certificate:
        return TlsFiles(str(tls.authorities))
    return TlsFiles(str(tls.authorities), str(tls.certificate), str(tls.key))


def run_request(
    request: pb.StartRequest,
    managers: ManagersOption = None,
    config: ConfigOption = None,
    plan: PlanOption = False,
    detach: DetachOption = False,
    if_version: VersionOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Give a request, and show it to its end, its plan alone, or how it began."""
    client = client_of(managers, config, timeout)
    request.plan_only, request.if_version = plan, if_version
    reply = client.start(request)
    if plan:
        print_plan(reply, as_json=as_json)
    elif detach:
        print_operation(reply.operation, as_json=as_json)
    else:
        follow(client, reply.operation.id, as_json=as_json)


def request_command(asked: Callable[..., pb.StartRequest]) -> Callable[..., None]:
    """Make a command of a function from its arguments to a request: one that takes `run_request`'s options, too.

    A function that needs one of these itself names it among its parameters.
    """
    own = signature(asked, eval_str=True).parameters
    shared = dict(list(signature(run_request, eval_str=True).parameters.items())[1:])

    @wraps(asked)
    def command(**given: Any) -> None:
        run_request(asked(**{name: given[name] for name in own}), **{name: given[name] for name in shared})

    # What the command line is made of: typer asks the function for its signature.
    parameters = [*(one for name, one in own.items() if name not in shared), *shared.values()]
    setattr(command, "__signature__", Signature(parameters))  # noqa: B010 - no attribute that mypy knows of
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command
