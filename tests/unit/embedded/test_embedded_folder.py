"""The folder of an embedded database: it keeps what was acknowledged, and one process has it at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import shoal

HOLDER = """
import sys, shoal
db = shoal.Client(sys.argv[1])
db.put("holder", "here")
print("open", flush=True)
sys.stdin.read()
"""

WRITER = """
import sys, shoal
db = shoal.Client(sys.argv[1])
for number in range(100_000_000):
    pipeline = db.pipeline()
    for part in range(5):
        pipeline.put(f"{part}", str(number))
    pipeline.execute()
    print(number, flush=True)
"""

LEAVER = """
import sys, threading, shoal
db = shoal.Client(sys.argv[1])
def write():
    while True:
        db.put("busy", "x" * 1000)
for _ in range(4):
    threading.Thread(target=write, daemon=True).start()
db.put("k", "v")
"""

ASYNC_LEAVER = """
import asyncio, sys, shoal
async def main():
    db = shoal.AsyncClient(sys.argv[1])
    await db.put("k", "v")
    asyncio.ensure_future(db.put("k2", "v"))
    await asyncio.sleep(0)
asyncio.run(main())
"""


def test_reopening_keeps_the_data(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path / 'new' / 'folder'}"
    for number in range(3):
        with shoal.Client(url) as db:
            assert db.get("n") == (b"%d" % (number - 1) if number else None)
            db.put_many({f"{number}-{key}": "v" for key in range(100)})
            db.put("n", str(number))
    with shoal.Client(url) as db:
        assert db.get_many([f"{number}-{key}" for number in range(3) for key in range(100)]) == [b"v"] * 300


async def test_a_folder_that_this_process_has_open_is_refused(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path}"
    async with shoal.AsyncClient(url) as db:
        await db.put("k", "v")
        other = shoal.AsyncClient(url)
        answers = await asyncio.gather(other.get("k"), other.put("k", "w"), return_exceptions=True)
        for answer in answers:
            assert isinstance(answer, shoal.Unavailable)
            assert f"in use by process {os.getpid()} (this one)" in str(answer)
    # It was merely refused: once the folder is free, the same client opens it.
    assert await other.get("k") == b"v"
    await other.close()


def test_a_folder_that_another_process_has_open_is_refused(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path}"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "open\n"
        db = shoal.Client(url)
        with pytest.raises(shoal.Unavailable, match=f"in use by process {holder.pid}: "):
            db.get("holder")
        holder.stdin.close()
        assert holder.wait(30) == 0
        assert db.get("holder") == b"here"
        db.close()


def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with (
        pytest.raises(shoal.InvalidArgument, match="is not empty and not Shoal's"),
        shoal.Client(f"embedded://{tmp_path}"),
    ):
        pass


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(shoal.InvalidArgument, match="cannot be"), shoal.Client(f"embedded://{tmp_path}"):
        pass


def test_sigkill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    for after in (3, 40, 200):
        url = f"embedded://{tmp_path / str(after)}"
        with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(after)]
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.readlines()
        acknowledged = max(int(line) for line in lines if line.endswith("\n"))
        with shoal.Client(url) as db:
            values = [int(value or -1) for value in db.get_many([f"{part}" for part in range(5)])]
            assert all(acknowledged <= value <= acknowledged + 1 for value in values), (acknowledged, values)
            db.put("after", "the crash")
            assert db.get("after") == b"the crash"


@pytest.mark.parametrize("script", [LEAVER, ASYNC_LEAVER])
def test_a_program_that_ends_without_closing_ends_well(tmp_path: Path, script: str) -> None:
    url = f"embedded://{tmp_path}"
    done = subprocess.run([sys.executable, "-c", script, url], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with shoal.Client(url) as db:
        assert db.get("k") == b"v"


def test_a_child_forked_meanwhile_does_not_keep_the_folder(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path}"
    script = (
        "import os, sys, time, shoal\n"
        "db = shoal.Client(sys.argv[1])\n"
        "db.put('k', 'v')\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    time.sleep(30)\n"
        "    os._exit(0)\n"
        "db.close()\n"
        "with shoal.Client(sys.argv[1]) as again:\n"
        "    print(again.get('k'))\n"
        "os.kill(child, 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, url], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'v'\n", "")


def test_the_delimiter_is_that_of_the_url_and_stays(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path}/db"
    with shoal.Client(f"{url}?delimiter=:") as db:
        with db.transaction() as both:
            both.put("user:1", "a")
            both.put("user:2", "b")
        with pytest.raises(shoal.CrossShard, match="microshards=1"), db.transaction() as apart:
            apart.put("a/1", "a")
            apart.put("a/2", "b")
    with shoal.Client(url) as db:
        assert db.get("user:2") == b"b"
    with pytest.raises(shoal.InvalidArgument, match="delimiter"), shoal.Client(f"{url}?delimiter=/") as db:
        db.get("user:1")
    with pytest.raises(shoal.InvalidArgument, match="at most 16"):
        shoal.Client(f"embedded://?delimiter={'x' * 17}")
