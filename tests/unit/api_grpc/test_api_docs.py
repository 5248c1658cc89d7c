"""The example of docs/grpc.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "grpc.md"


def test_the_example_reads_what_it_has_written(api, one_node, capsys):
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    exec(compile(example.replace("127.0.0.1:7500", one_node.admin), str(PAGE), "exec"), {})
    assert capsys.readouterr().out == "b'hello'\n"
