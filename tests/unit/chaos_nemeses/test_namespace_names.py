"""Which namespaces are ours, whose run is over, and what is said where there can be none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from shoal_chaos.clusters import namespaces
from shoal_chaos.clusters.namespaces import NamespacesMissing, Owner, leftovers, owner_of, require_tools

LIVING, DEAD = Owner(11, 100), Owner(12, 100)
OTHERS = ["", "default", "shoal", "shoal-chaos", "shoal-chaos-12", "shoal-chaos-12-100", "my-shoal-chaos-12-100-n1",
          "shoal-chaos-12-100-n1/mine", "shoal-chaos-x-100-n1", "shoal-chaos-12-100-"]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_a_process_that_has_ended_lives_no_more_and_neither_does_one_with_its_number() -> None:
    mine = Owner.this_process()
    assert mine.lives()
    assert not Owner(mine.pid, mine.started + 1).lives()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
    assert Owner(child.pid, started).lives()
    child.communicate(b"\n")
    assert not Owner(child.pid, started).lives()


def test_a_name_says_who_made_it() -> None:
    assert owner_of(LIVING.namespace("n1")) == LIVING
    assert owner_of(DEAD.namespace("hub")) == DEAD
    assert owner_of(DEAD.namespace("node-1.eu")) == DEAD


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_others_are_none_of_ours(name: str) -> None:
    assert owner_of(name) is None


def test_leftovers_are_those_of_runs_that_are_over() -> None:
    there = [*OTHERS, LIVING.namespace("n1"), DEAD.namespace("n2"), DEAD.namespace("hub")]
    assert leftovers(there, LIVING.__eq__) == [
        DEAD.namespace("hub"), DEAD.namespace("n2"),
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="the other reasons are Linux's")
def test_the_reason_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 0)
    with pytest.raises(NamespacesMissing, match="need `ip` and `tc`"):
        require_tools()
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 1000)
    with pytest.raises(NamespacesMissing, match="need root"):
        require_tools()
