"""Writes shardmanager/shoal_shardmanager/rpc/generated/ from proto/: messages, their types, and the gRPC classes.

python tools/generate_protos.py            writes the files
python tools/generate_protos.py --check    fails where a file is not what would be written
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "proto" / "shoal" / "admin" / "v1" / "admin.proto"
TARGET = ROOT / "shardmanager" / "shoal_shardmanager" / "rpc" / "generated"
FILES = ("admin_pb2.py", "admin_pb2.pyi", "admin_pb2_grpc.py")
PACKAGE = "shoal.admin.v1"
"""As which the generated modules import each other. There is a real package `shoal`, which they are not to be in."""


def generate(folder: Path) -> dict[str, str]:
    """Return the generated files, with imports that fit where they are kept."""
    library = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{library}", f"--python_out={folder}", f"--pyi_out={folder}"]
    if protoc.main([*arguments, f"--grpc_python_out={folder}", str(SOURCE)]) != 0:
        raise SystemExit("protoc failed")
    made = folder / SOURCE.relative_to(ROOT / "proto").parent
    return {
        name: (made / name)
        .read_text()
        .replace(f"from {PACKAGE} import", "from shoal_shardmanager.rpc.generated import")
        for name in FILES
    }


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        wanted = generate(Path(folder))
    if "--check" in sys.argv[1:]:
        stale = [name for name in FILES if not (TARGET / name).exists() or (TARGET / name).read_text() != wanted[name]]
        if stale:
            print(f"{', '.join(stale)}: not what proto/ asks for: run python tools/generate_protos.py", file=sys.stderr)
        return 1 if stale else 0
    TARGET.mkdir(parents=True, exist_ok=True)
    (TARGET / "__init__.py").write_text('"""Generated from proto/ by tools/generate_protos.py; not to be changed."""\n')
    for name in FILES:
        (TARGET / name).write_text(wanted[name])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
