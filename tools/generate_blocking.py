"""Writes client/shoal/blocking.py from client/shoal/aio.py: the same public methods, each run on the portal's thread.

python tools/generate_blocking.py            writes the file
python tools/generate_blocking.py --check    fails where the file is not what would be written
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

SHOAL = Path(__file__).resolve().parent.parent / "client" / "shoal"
SOURCE = SHOAL / "aio.py"
TARGET = SHOAL / "blocking.py"

BLOCKING_NAMES = {"AsyncClient": "Client", "AsyncPipeline": "Pipeline"}
DUNDERS = {"__aenter__": "__enter__", "__aexit__": "__exit__"}

HEADER = '''"""The blocking client. Generated from aio.py by tools/generate_blocking.py: change that, not this."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ssl import SSLContext
from types import TracebackType

from shoal.aio import AsyncClient, AsyncPipeline, Result
from shoal.errors import ShoalError
from shoal.portal import Portal
from shoal.results import Entry, WriteResult
'''


def blocking_text(text: str) -> str:
    """Return documentation or annotations as they read for the blocking client."""
    for asynchronous, blocking in BLOCKING_NAMES.items():
        text = text.replace(asynchronous, blocking)
    text = text.replace("async with", "with").replace("await ", "").replace(", for asyncio. Safe", ". Safe")
    return text.replace("many tasks of one event loop", "many threads").replace(
        "A cancelled call", "An interrupted call"
    )


def docstring_lines(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, indent: str) -> list[str]:
    """Return the docstring of `node` as source lines."""
    text = ast.get_docstring(node)
    if text is None:
        return []
    lines = blocking_text(text).splitlines()
    closing = [f'{indent}"""'] if len(lines) > 1 else []
    lines[0] = f'"""{lines[0]}'
    if not closing:
        lines[0] += '"""'
    return [f"{indent}{line}".rstrip() for line in lines] + closing


def forwarded(arguments: ast.arguments) -> str:
    """Return the arguments with which a method hands its own on."""
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)][1:]
    return ", ".join([*names, *(f"{argument.arg}={argument.arg}" for argument in arguments.kwonlyargs)])


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the `def` line of the blocking method."""
    name = DUNDERS.get(node.name, node.name)
    returns = f" -> {blocking_text(ast.unparse(node.returns))}" if node.returns is not None else ""
    return f"    def {name}({blocking_text(ast.unparse(node.args))}){returns}:"


def body(owner: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the statements of the blocking method."""
    handed_on = forwarded(node.args)
    returned = ast.unparse(node.returns) if node.returns is not None else ""
    if node.name == "__init__":
        if owner == "AsyncClient":
            return [f"self._inner = AsyncClient({handed_on})", "self._portal = Portal()"]
        return ["self._inner = inner", "self._portal = portal"]
    if node.name == "__aenter__":
        return ["try:", "    self._portal.call(self._inner.__aenter__)", "except BaseException:", "    self.close()",
                "    raise", "return self"]  # fmt: skip
    if node.name == "__aexit__":
        return ["self.close()"]
    if node.name == "close":
        return ["self._portal.close(self._inner.close)"]
    if isinstance(node, ast.AsyncFunctionDef):
        comma = ", " if handed_on else ""
        return [f"return self._portal.call(self._inner.{node.name}{comma}{handed_on})"]
    if returned == owner and owner == "AsyncPipeline":
        return [f"self._inner.{node.name}({handed_on})", "return self"]
    if returned == "AsyncClient":
        return ["other = Client.__new__(Client)", f"other._inner = self._inner.{node.name}({handed_on})",
                "other._portal = self._portal", "return other"]  # fmt: skip
    if returned == "AsyncPipeline":
        return [f"return Pipeline(self._inner.{node.name}({handed_on}), self._portal)"]
    return [f"return self._inner.{node.name}({handed_on})" if node.name != "__len__" else "return len(self._inner)"]


def generate(source: str) -> str:
    """Return the blocking module for the asyncio module's source."""
    lines = [HEADER]
    for item in ast.parse(source).body:
        if not isinstance(item, ast.ClassDef) or item.name not in BLOCKING_NAMES:
            continue
        lines += ["", "", f"class {BLOCKING_NAMES[item.name]}:", *docstring_lines(item, "    ")]
        for method in item.body:
            if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if method.name.startswith("_") and not method.name.startswith("__"):
                continue
            if method.name == "__init__" and item.name == "AsyncPipeline":
                lines += ["", "    def __init__(self, inner: AsyncPipeline, portal: Portal) -> None:"]
            else:
                lines += ["", signature(method), *docstring_lines(method, "        ")]
            lines += [f"        {line}" for line in body(item.name, method)]
    return re.sub(r"\n{4,}", "\n\n\n", formatted("\n".join(lines) + "\n"))


def formatted(source: str) -> str:
    """Return the source as ruff formats it."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TARGET), "-"],
        input=source,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def main() -> int:
    wanted = generate(SOURCE.read_text())
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text() != wanted:
            print(f"{TARGET} is not what {SOURCE} asks for: run python tools/generate_blocking.py", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(wanted)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
