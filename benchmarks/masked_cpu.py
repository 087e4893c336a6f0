"""Run a command as on an x86 CPU without VNNI: `python -m benchmarks.masked_cpu -- COMMAND`.

A copy of the virtual environment is made whose libraries ask benchmarks/cpuid_mask.c what the CPU can do.
ONNX Runtime, OpenVINO and PyTorch then choose the kernels of the weaker CPU, and these run at full speed.
Needs Linux, gcc and objdump (Debian: apt install gcc binutils). The first run takes minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

# Class of CPU -> what cpuid_mask.c hides.
HIDDEN = {"x86-avx2": "avx512", "x86-avx512": "vnni"}
CPUID, TRAP = b"\x0f\xa2", b"\xcc\x90"
# numpy and its OpenBLAS have variables of their own for this.
NUMPY = {
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
SKIPPED = ("numpy", "scipy", "tensorrt", "nvidia")
INSTRUCTION = re.compile(rb"^\s*([0-9a-f]+):\s+0f a2\s+cpuid", re.MULTILINE)
SECTION = re.compile(r"^\s*\d+\s+(\S+)\s+([0-9a-f]+)\s+([0-9a-f]+)\s+[0-9a-f]+\s+([0-9a-f]+)", re.MULTILINE)


def masked_environment(folder: Path) -> Path:
    """The Python of a copy of this virtual environment in `folder` whose libraries ask cpuid_mask.c."""
    python, stamp = folder / "venv" / "bin" / "python", folder / "made"
    packages = sorted(
        f"{entry.name} {entry.version}" for entry in distributions() if entry.name != "edgedeploy"
    )
    if stamp.exists() and stamp.read_text().splitlines() == packages:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run(["cp", "-al", sys.prefix, str(folder / "venv")], check=True)  # noqa: S607  coreutils
    for script in (folder / "venv" / "bin").iterdir():
        _retarget(script, python)
    source = Path(__file__).with_name("cpuid_mask.c")
    library = folder / "cpuid_mask.so"
    compile_it = ["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(compile_it, check=True)
    for path in sorted((folder / "venv" / "lib").rglob("*.so*")):
        if path.is_symlink() or any(part.startswith(SKIPPED) for part in path.parts):
            continue
        count = _mask(path)
        if count:
            print(f"{count:3d} CPUID instructions in {path.name}", file=sys.stderr)
    stamp.write_text("\n".join(packages))
    return python


def _retarget(script: Path, python: Path) -> None:
    """Let a console script of the copy run the copy's Python."""
    text = b"" if script.is_symlink() else script.read_bytes()
    first, _, rest = text.partition(b"\n")
    if first.startswith(b"#!") and b"python" in first:
        _replace(script, b"#!" + os.fsencode(python) + b"\n" + rest)


def _replace(path: Path, content: bytes) -> None:
    """Give a file of the copy another content; the hard-linked one of the real environment keeps its own."""
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(content)
    path.chmod(mode)


def _mask(path: Path) -> int:
    """Replace the CPUID instructions of a library; its bytes alone would also find them inside others."""
    content = path.read_bytes()
    if not content.startswith(b"\x7fELF") or CPUID not in content:
        return 0
    listing = subprocess.run(["objdump", "-d", str(path)], capture_output=True, check=True).stdout  # noqa: S607
    headers = subprocess.run(["objdump", "-h", str(path)], capture_output=True, check=True, text=True).stdout  # noqa: S607
    sections = [tuple(int(v, 16) for v in match[1:]) for match in SECTION.findall(headers)]
    changed = bytearray(content)
    found = [int(match, 16) for match in INSTRUCTION.findall(listing)]
    for address in found:
        begin, offset = next((b, o) for size, b, o in sections if b <= address < b + size)
        place = address - begin + offset
        if changed[place : place + 2] != CPUID:
            raise RuntimeError(f"no CPUID at {address:x} of {path}")
        changed[place : place + 2] = TRAP
    if found:
        _replace(path, bytes(changed))
    return len(found)


def variables(cpu: str, folder: Path) -> dict[str, str]:
    """Environment variables under which a masked environment takes this machine for one of class `cpu`."""
    masked = {
        "LD_PRELOAD": str(folder / "cpuid_mask.so"),
        "CPUID_MASK": HIDDEN[cpu],
        "EDGEDEPLOY_CPU": cpu,
        "PATH": f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(folder / "venv"),
    }
    return {**os.environ, **masked, **(NUMPY if cpu == "x86-avx2" else {})}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", choices=sorted(HIDDEN), default="x86-avx2")
    parser.add_argument(
        "--folder", type=Path, default=Path("out/masked_cpu"), help="for the copy, 50 MB besides links"
    )
    parser.add_argument("command", nargs="+", help="after --; `python` is the masked one")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    masked_environment(folder)
    return subprocess.run(arguments.command, env=variables(arguments.cpu, folder), check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
