"""`shoal doctor`: looks over a cluster, and says what is wrong and what to do."""

from __future__ import annotations

import asyncio
import os

import msgspec
import typer
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import DEFAULT_URL, JsonOption, UrlOption, admin_options
from shoal.cli.output import print_json, print_line
from shoal.tls import client_context

from shoal_shardmanager.cli.options import ConfigOption, ManagersOption, client_of, cluster_of, process_files
from shoal_shardmanager.doctor.evidence import Finding, Severity
from shoal_shardmanager.doctor.gather import gather
from shoal_shardmanager.doctor.judge import judge


class Diagnosis(msgspec.Struct):
    """What `doctor --json` prints."""

    cluster: str
    well: bool
    findings: list[Finding]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    url: UrlOption = DEFAULT_URL,
    managers: ManagersOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look over the cluster: what is wrong, and what to do about it.

    Exit code 0 if all is well, else 5. It changes nothing.
    """
    options = admin_options(url)
    cluster = None if config is None else cluster_of(config)
    client = client_of(managers, config, f"{options.timeout}s") if managers or config else None
    addresses = [] if cluster is None else [entry.address for entry in cluster.managers]
    # The managers' own nodes take nobody without a certificate.
    files = None if cluster is None else process_files(cluster, certificate=True)
    own = None if files is None else client_context(options.tls_files if options.tls_files.certfile else files)
    try:
        evidence = asyncio.run(gather(options.seeds, client, addresses, options.timeout, options.tls_context(), own))
    finally:
        if client is not None:
            client.close()
    findings = judge(evidence)
    wrong = [finding for finding in findings if finding.severity is not Severity.INFO]
    name = evidence.survey.shard_map.cluster
    if as_json:
        print_json(Diagnosis(name, not wrong, findings))
    else:
        print_line(f"cluster {name}: {'well' if not wrong else 'NOT WELL'}")
        for finding in findings:
            print_line(f"{finding.severity.value:8}  {finding.what}{os.linesep}          -> {finding.advice}")
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise CommandFailed(f"cluster {name} is not well: {wrong[0].what}{more}", ExitCode.UNAVAILABLE)
