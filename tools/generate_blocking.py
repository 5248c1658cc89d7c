"""Writes client/shoal/blocking.py from the asyncio classes: the same public methods, each run on the portal's thread.

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
SOURCES = [SHOAL / name for name in ("aio.py", "range_calls.py", "pipelines.py", "transactions.py")]
TARGET = SHOAL / "blocking.py"

BLOCKING_NAMES = {
    "AsyncClient": "Client",
    "AsyncPipeline": "Pipeline",
    "AsyncTransaction": "Transaction",
    "AsyncScan": "Scan",
}
WITH_PORTAL = ("AsyncPipeline", "AsyncTransaction")
"""Classes that a client makes, and hands its portal on to."""
LEFT_OUT = {"aclose"}
"""What a blocking client has no use for."""
DUNDERS = {"__aenter__": "__enter__", "__aexit__": "__exit__"}
ON_LOOP = {"merge", "token"}
"""Plain methods that touch what the loop's thread changes, and so run there."""
COPIED = {"run"}
"""Methods that call back into the caller's code, which has to run on the caller's thread: copied, without `await`."""

HEADER = '''"""The blocking client. Generated from the asyncio one by tools/generate_blocking.py: change that, not this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ssl import SSLContext
from time import sleep
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from shoal.aio import AsyncClient
from shoal.errors import ShoalError, TransactionConflict
from shoal.metrics import Family
from shoal.pipelines import AsyncPipeline, Result
from shoal.priorities import PriorityName
from shoal.protocol.messages import AtomicOperation, Condition
from shoal.results import Consistency, Durability, Duration, Entry, WriteResult
from shoal.scans import Scan
from shoal.transactions import AsyncTransaction
from shoal.transport.portal import Portal

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

T = TypeVar("T")
'''


def blocking_text(text: str) -> str:
    """Return documentation or annotations as they read for the blocking client."""
    for asynchronous, blocking in BLOCKING_NAMES.items():
        text = text.replace(asynchronous, blocking)
    text = text.replace("async with", "with").replace("await ", "").replace(", for asyncio. Safe", ". Safe")
    text = re.sub(r"Awaitable\[(\w+)\]", r"\1", text).replace("for one task.", "for one thread.")
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
    made = returned.split("[")[0]
    name = node.name
    if is_decorated(node, "overload"):
        return ["..."]
    if is_decorated(node, "property"):
        return [f"return self._inner.{name}"]
    if name == "__init__":
        if owner == "AsyncClient":
            return [f"self._inner = AsyncClient({handed_on})", "self._portal = Portal(self._inner.close)"]
        return ["self._inner = inner", "self._portal = portal"]
    if name == "__len__":
        return ["return len(self._inner)"]
    if name == "__repr__":
        return [f'return repr(self._inner).replace("shoal.{owner}", "shoal.{BLOCKING_NAMES[owner]}", 1)']
    if name == "__aenter__":
        if owner != "AsyncClient":
            return ["self._portal.call(self._inner.__aenter__)", "return self"]
        return ["try:", "    self._portal.call(self._inner.__aenter__)", "except BaseException:", "    self.close()",
                "    raise", "return self"]  # fmt: skip
    if name == "__aexit__":
        return (
            ["self.close()"] if owner == "AsyncClient" else [f"self._portal.call(self._inner.__aexit__, {handed_on})"]
        )
    if name == "close":
        return ["self._portal.close()"]
    if name in COPIED:
        statements = [statement for statement in node.body if not is_docstring(statement)]
        text = blocking_text("\n".join(ast.unparse(statement) for statement in statements))
        return re.sub(r"self\._", "self._inner._", text).splitlines()
    if isinstance(node, ast.AsyncFunctionDef) or name in ON_LOOP:
        comma = ", " if handed_on else ""
        how = "call" if isinstance(node, ast.AsyncFunctionDef) else "run"
        kept = "" if returned == "None" else "return "
        return [f"{kept}self._portal.{how}(self._inner.{name}{comma}{handed_on})"]
    if returned == owner and owner == "AsyncPipeline":
        return [f"self._inner.{name}({handed_on})", "return self"]
    if returned == "AsyncClient":
        return ["other = Client.__new__(Client)", f"other._inner = self._inner.{name}({handed_on})",
                "other._portal = self._portal", "return other"]  # fmt: skip
    if made in BLOCKING_NAMES:
        return [f"return {BLOCKING_NAMES[made]}(self._inner.{name}({handed_on}), self._portal)"]
    return [f"return self._inner.{name}({handed_on})" if returned != "None" else f"self._inner.{name}({handed_on})"]


def is_decorated(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> bool:
    """Say whether `name` stands among the method's decorators."""
    return any(isinstance(each, ast.Name) and each.id == name for each in node.decorator_list)


def is_docstring(statement: ast.stmt) -> bool:
    """Say whether a statement is nothing but a string."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def methods(owner: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the methods of a class, with those of the bases that are among `classes`."""
    found = [each for each in owner.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    for base in owner.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            found += methods(classes[base.id], classes)
    return found


def generate(sources: list[str]) -> str:
    """Return the blocking module for the asyncio modules' sources."""
    lines = [HEADER]
    items = [item for source in sources for item in ast.parse(source).body]
    classes = {item.name: item for item in items if isinstance(item, ast.ClassDef)}
    for item in classes.values():
        if item.name not in BLOCKING_NAMES:
            continue
        lines += ["", "", f"class {BLOCKING_NAMES[item.name]}:", *docstring_lines(item, "    ")]
        for method in methods(item, classes):
            if method.name in LEFT_OUT or (method.name.startswith("_") and not method.name.startswith("__")):
                continue
            lines.append("")
            if method.name == "__init__" and item.name in WITH_PORTAL:
                lines.append(f"    def __init__(self, inner: {item.name}, portal: Portal) -> None:")
            else:
                lines += [f"    @{ast.unparse(decorator)}" for decorator in method.decorator_list]
                lines += [signature(method), *docstring_lines(method, "        ")]
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
    wanted = generate([source.read_text() for source in SOURCES])
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text() != wanted:
            print(
                f"{TARGET} is not what the asyncio client asks for: run python tools/generate_blocking.py",
                file=sys.stderr,
            )
            return 1
        return 0
    TARGET.write_text(wanted)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
