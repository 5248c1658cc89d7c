"""The layout is what the pages say: the files that they name are there, and no module has grown beyond what one can read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .test_code_blocks import PAGES, ROOT

PACKAGES = ("client", "server", "shardmanager", "chaos")
LINES_MAX = 500
TABLES = {"client/shoal/protocol/messages.py": "one struct after the other, which nobody reads from end to end"}
GENERATED = ("client/shoal/blocking.py", "/generated/")

NAMED = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|proto|c)|(?:\w+/)+)`")


def paths() -> list[str]:
    folders = (*PACKAGES, "tests", "bench", "docs", "deploy", "proto", "tools")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")] + list(ROOT.iterdir())
    return [f"/{path.relative_to(ROOT)}{'/' if path.is_dir() else ''}" for path in found]


@pytest.fixture(scope="module")
def there() -> list[str]:
    return paths()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_page_names_are_there(page: Path, there: list[str]) -> None:
    named = set(NAMED.findall(page.read_text()))
    gone = {name for name in named if not any(path.endswith(f"/{name}") for path in there)}
    assert not gone - NOT_OURS


NOT_OURS = {"chaos-runs/", "report.html"}
"""What commands make."""


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_no_module_is_longer_than_can_be_read_in_one_go() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules()}
    exempt = [name for name in lengths if name in TABLES or any(part in name for part in GENERATED)]
    longer = {name: length for name, length in lengths.items() if length >= LINES_MAX and name not in exempt}
    assert not longer


def test_every_module_says_first_what_it_is_for() -> None:
    silent = [path for path in modules() if not path.read_text().startswith(('"""', "#", 'r"""')) and path.read_text()]
    assert not [str(path.relative_to(ROOT)) for path in silent if "/generated/" not in str(path)]
