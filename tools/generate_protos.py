"""Writes the generated packages of the gRPC services from proto/: messages, their types, and the gRPC classes.

python tools/generate_protos.py            writes the files
python tools/generate_protos.py --check    fails where a file is not what would be written
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
HEADER = "# ruff: noqa\n# fmt: off\n# mypy: ignore-errors\n"
"""It is nobody's to read: the checks that the house's own code has to pass are not for it."""
INIT = '"""Generated from proto/ by tools/generate_protos.py; not to be changed."""\n'


@dataclass(frozen=True, slots=True)
class Service:
    """One file of proto/, and the package that is generated from it."""

    source: Path
    folder: Path
    package: str

    @property
    def files(self) -> tuple[str, ...]:
        name = self.source.stem
        return f"{name}_pb2.py", f"{name}_pb2.pyi", f"{name}_pb2_grpc.py"


SERVICES = (
    Service(
        PROTO / "shoal" / "admin" / "v1" / "admin.proto",
        ROOT / "shardmanager" / "shoal_shardmanager" / "rpc" / "generated",
        "shoal_shardmanager.rpc.generated",
    ),
    Service(
        PROTO / "shoal" / "v1" / "shoal.proto",
        ROOT / "server" / "shoal_server" / "api" / "generated",
        "shoal_server.api.generated",
    ),
)


def generate(service: Service, folder: Path) -> dict[str, str]:
    """Return the generated files, with imports that fit where they are kept."""
    library = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{PROTO}", f"-I{library}", f"--python_out={folder}", f"--pyi_out={folder}"]
    if protoc.main([*arguments, f"--grpc_python_out={folder}", str(service.source)]) != 0:
        raise SystemExit("protoc failed")
    made = folder / service.source.relative_to(PROTO).parent
    # They import each other by the path of their source. There is a real package `shoal`, which they are not to be in.
    imported = ".".join(service.source.relative_to(PROTO).parent.parts)
    return {
        name: HEADER + (made / name).read_text().replace(f"from {imported} import", f"from {service.package} import")
        for name in service.files
    }


def main() -> int:
    stale = False
    for service in SERVICES:
        with tempfile.TemporaryDirectory() as folder:
            wanted = {"__init__.py": INIT} | generate(service, Path(folder))
        for name, text in wanted.items():
            target = service.folder / name
            if target.exists() and target.read_text() == text:
                continue
            if "--check" in sys.argv[1:]:
                print(f"{target}: not what proto/ asks for: run python tools/generate_protos.py", file=sys.stderr)
                stale = True
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
