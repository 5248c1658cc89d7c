"""Every code block of the README and of docs/ is run: the blocks of a page, one after the other, are a script.

A fenced block says its language. `sh` runs in bash, in an empty folder with the command line in the PATH; `python` as a
program of its own; `yaml` is a configuration that has to be valid; `text` is what something prints or looks like, no code.
What a machine without Docker, or a test, cannot run, says why in a comment before the block: <!-- not run: reason -->.
A page may rely on nothing but itself: the clusters that it needs it starts.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from shoal_server.config import parse_config
from shoal_server.local.layout import ClusterFolder
from shoal_server.local.processes import find_nodes

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(
    r"^(<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
PORTS = (7400, 7401, 7402, 7500, 7501, 7502, 7550)
"""Where `shoal up` puts a cluster."""
PATIENCE_SECONDS = 500


@dataclass(frozen=True, slots=True)
class Block:
    language: str
    code: str
    line: int
    not_run: str


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(found["language"], found["code"], text.count("\n", 0, found.start("code")), found["reason"] or "")
        for found in FENCED.finditer(text)
    ]


def script_of(page: Path) -> str:
    """Return a page's blocks as one script, which stops at the first that fails."""
    lines = ["set -euo pipefail"]
    for block in blocks_of(page):
        if block.not_run:
            continue
        lines.append(f"echo '--- line {block.line}' >&2")
        if block.language == "sh":
            lines.append(block.code)
        elif block.language == "python":
            lines.append(f"python -c {shlex.quote(block.code)}")
    return "\n".join(lines) + "\n"


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for cluster in filter(Path.is_dir, tmp_path.iterdir()):
        for node in find_nodes(ClusterFolder(cluster)):  # of a page that failed halfway
            node.signal(signal.SIGKILL)


def runs_code(page: Path) -> bool:
    return any(block.language in ("sh", "python") and not block.not_run for block in blocks_of(page))


@pytest.mark.timeout(PATIENCE_SECONDS + 20)
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if runs_code(page)]
)
def test_the_commands_and_programs_of_a_page_run_as_they_stand(page: Path, folder: Path) -> None:
    if "shoal up" in script_of(page) and not all(map(is_free, PORTS)):
        pytest.skip("something listens where `shoal up` would: is a cluster running?")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with (folder / "out").open("w+") as out:
        process = subprocess.Popen(
            ["bash", "-c", script_of(page)], cwd=folder, env=environment, stdout=out, stderr=out,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            out.write(f"\nnot done after {PATIENCE_SECONDS} seconds")
        finally:
            # All that it has started and left, too; nodes have sessions of their own.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        assert process.returncode == 0, out.read()[-4000:]


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_every_block_of_a_page_says_what_it_is(page: Path) -> None:
    text = page.read_text()
    blocks = blocks_of(page)
    assert len(re.findall("^```", text, re.MULTILINE)) == 2 * len(blocks)
    for block in blocks:
        assert block.language in ("sh", "python", "yaml", "text"), f"{page.name}:{block.line}"
        if block.language == "yaml" and not block.not_run:
            parse_config(block.code, {}, name=f"{page.name}:{block.line}", folder=page.parent)
    outside = FENCED.sub("", text)
    indented = re.findall(r"^\n    \S.*$", outside, re.MULTILINE)
    assert not indented, "a block without a fence would not be run"


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
