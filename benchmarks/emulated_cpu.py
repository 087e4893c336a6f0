"""Run an INT8 model on an emulated CPU: `python -m benchmarks.emulated_cpu --cpu cortex-a53 MODEL FEEDS`.

QEMU emulates one process: the runtimes choose the kernels of that CPU, which compute its bits, saturation
included. The seconds are the emulation's and say nothing of the CPU's speed. AVX-512 is not emulated.
Needs Debian whose Python has this one's version: apt install qemu-user. For ARM, its Python and wheels of the
installed runtimes are fetched into --folder, 300 MB, without root. One run at a time in a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

CPUS = {
    "host": ("", ""),  # not emulated: what the roundings of other kernels make of a deep model
    "haswell": ("qemu-x86_64", "Haswell,check=off"),  # AVX2; check=off: no word on what is not emulated
    "nehalem": ("qemu-x86_64", "Nehalem,check=off"),  # SSE4.2
    "cortex-a53": ("qemu-aarch64", "cortex-a53"),  # no dot products
    "cortex-a76": ("qemu-aarch64", "cortex-a76"),  # asimddp
    "max": ("qemu-aarch64", "max"),  # asimddp, i8mm, bf16, SVE2
}
RUNTIMES = (("onnxruntime", "off"), ("onnxruntime", "on"), ("openvino", "on"))
PYTHON = f"python3.{sys.version_info.minor}"
PACKAGES = (f"{PYTHON}-minimal", f"lib{PYTHON}-minimal", f"lib{PYTHON}-stdlib", "libc6", "libgcc-s1",
    "libstdc++6", "zlib1g", "libexpat1", "libffi8")  # fmt: skip
WHEELS = ("numpy", "onnxruntime", "openvino")
# An emulated process reads the host's /proc/cpuinfo, on which ONNX Runtime for ARM crashes. QEMU looks into
# its root first; this, run on the emulated CPU, tells what to put there. HWCAP and MIDR_EL1 are truthful.
# With fewer processors than /sys counts, ONNX Runtime crashes on a CPU that it does not know, as `max`.
CPUINFO = """
import ctypes, mmap, os
ask = ctypes.CDLL(None).getauxval
ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
bits = {"asimd": (16, 1), "asimddp": (16, 20), "sve": (16, 22), "i8mm": (26, 13), "bf16": (26, 14)}
names = " ".join(name for name, (key, bit) in bits.items() if ask(key) >> bit & 1)
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("000038d5 c0035fd6"))  # mrs x0, midr_el1; ret
midr = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
for number in range(os.sysconf("SC_NPROCESSORS_CONF")):
    print(f"processor\\t: {number}\\nFeatures\\t: {names}\\nCPU implementer\\t: {midr >> 24:#04x}")
    print(f"CPU architecture: 8\\nCPU variant\\t: {midr >> 20 & 15:#x}")
    print(f"CPU part\\t: {midr >> 4 & 4095:#05x}\\nCPU revision\\t: {midr & 15}\\n")
"""


def arm_environment(folder: Path) -> tuple[Path, Path]:
    """A root with Debian's ARM Python, and a folder with the wheels of this environment's runtimes."""
    root, site, stamp = folder / "root", folder / "site", folder / "made"
    pins = [f"{name}=={version(name)}" for name in WHEELS]
    if stamp.exists() and stamp.read_text().split() == [PYTHON, *pins]:
        return root, site
    shutil.rmtree(folder, ignore_errors=True)
    debs = folder / "debs"
    for path in (debs, folder / "state/lists/partial", folder / "cache/archives/partial"):
        path.mkdir(parents=True)
    # Package lists of its own: the system's are not touched.
    settings = (f"Dir::State={folder}/state", f"Dir::Cache={folder}/cache", "Dir::State::status=/dev/null",
        "APT::Architecture=arm64", "APT::Architectures=arm64", "APT::Sandbox::User=root")  # fmt: skip
    apt = ["apt-get", "-qq", *(f"-o{setting}" for setting in settings)]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "download", *PACKAGES], check=True, cwd=debs)
    for package in sorted(debs.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)  # noqa: S607  Debian's own
    newest = int(platform.libc_ver()[1].split(".")[1])  # of this release, so the root's, too
    tags = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, newest + 1)]
    how = ["-q", "--no-deps", "--only-binary=:all:", f"--python-version=3.{sys.version_info.minor}", *tags]
    subprocess.run([sys.executable, "-m", "pip", "install", f"--target={site}", *how, *pins], check=True)
    stamp.write_text("\n".join([PYTHON, *pins]))
    return root, site


def emulator(cpu: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """A Python on the emulated CPU, as the begin of a command, and its environment variables."""
    binary, model = CPUS[cpu]
    if not binary:
        return [sys.executable], dict(os.environ)
    if not shutil.which(binary):
        raise SystemExit(f"error: {binary} is missing\nhint: apt install qemu-user")
    if binary == "qemu-x86_64":
        return [binary, "-cpu", model, sys.executable], dict(os.environ)
    root, site = arm_environment(folder / "aarch64")
    command = [binary, "-cpu", model, "-L", str(root), str(root / "usr/bin" / PYTHON)]
    text = subprocess.run([*command, "-c", CPUINFO], capture_output=True, check=True, text=True).stdout
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/cpuinfo").write_text(text)
    return command, {**os.environ, "PYTHONPATH": str(site)}


def infer(runtime: str, optimized: str, model: str, feeds: str, out: str) -> None:
    """What runs on the emulated CPU, with numpy and the runtimes alone: writes an .npz, prints JSON."""
    given: dict[str, dict[str, Any]] = {}
    with np.load(feeds) as archive:
        for key in archive.files:
            number, _, name = key.partition(":")
            given.setdefault(number, {})[name] = archive[key]
    if runtime == "onnxruntime":
        import onnxruntime as ort

        options, levels = ort.SessionOptions(), ort.GraphOptimizationLevel
        level = levels.ORT_ENABLE_ALL if optimized == "on" else levels.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.graph_optimization_level = level
        options.optimized_model_filepath = f"{out}.onnx"
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names, kinds = [output.name for output in session.get_outputs()], []
        begin = time.perf_counter()
        found = {i: dict(zip(names, session.run(names, feed), strict=True)) for i, feed in given.items()}
    else:
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        infos = [operator.get_rt_info() for operator in compiled.get_runtime_model().get_ops()]
        kinds = [f"{info['layerType'].astype(str)} {info['primitiveType'].astype(str)}" for info in infos]
        begin = time.perf_counter()
        found = {
            number: {name: value.copy() for port, value in compiled(feed).items() for name in port.names}
            for number, feed in given.items()
        }
    seconds = time.perf_counter() - begin
    np.savez(out, **{f"{i}:{name}": value for i, outputs in found.items() for name, value in outputs.items()})
    print(json.dumps({"seconds": seconds, "kinds": kinds}))


def prepare(model: Path, feeds: Path, limit: int, out: Path) -> None:
    """The first `limit` inputs of FEEDS, whose arrays are stacks of them, as arrays called NUMBER:INPUT."""
    import onnx

    graph, arrays = onnx.load(model).graph, {}
    ranks = {entry.name: entry.type.tensor_type.shape.dim for entry in graph.input}
    with np.load(feeds) as archive:
        for name in archive.files:
            stack, dims = archive[name], ranks[name]
            batch = dims[0].dim_value or 1 if len(dims) == stack.ndim else 0
            for i in range(min(limit, len(stack) // max(batch, 1))):
                arrays[f"{i}:{name}"] = stack[i * batch : (i + 1) * batch] if batch else stack[i]
    np.savez(out, **arrays)


def int8_layers(runtime: str, kinds: list[str], optimized: Path) -> int:
    """How many convolutions and matrix products ran in INT8: without any, an exact output proves nothing."""
    import onnx

    if runtime == "openvino":
        products = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
        return sum(kind.startswith(products) and kind.endswith(("_I8", "_U8")) for kind in kinds)
    nodes = [node.op_type for node in onnx.load(optimized).graph.node]
    return sum(kind in ("QLinearConv", "QLinearMatMul", "QGemm") or "Integer" in kind for kind in nodes)


def main() -> int:
    from edgedeploy.core.parity import compare

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", choices=CPUS, action="append", help="may be repeated; default: all")
    parser.add_argument("--limit", type=int, default=1, help="inputs of FEEDS to run; default: 1")
    parser.add_argument("--folder", type=Path, default=Path("out/emulated_cpu"), help="for what is fetched")
    parser.add_argument("model", type=Path)
    parser.add_argument("feeds", type=Path, help=".npz, the first axis of whose arrays counts the inputs")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    feeds, exact, out = folder / "feeds.npz", folder / "exact.npz", folder / "outputs.npz"
    prepare(arguments.model, arguments.feeds, arguments.limit, feeds)
    work = [str(Path(__file__).resolve()), "--infer"]
    reference = [sys.executable, *work, "onnxruntime", "off", str(arguments.model), str(feeds), str(exact)]
    subprocess.run(reference, check=True, capture_output=True)
    print("| CPU | runtime | optimized | INT8 layers | output | SQNR dB | seconds |")
    print("|---|---|---|---|---|---|---|")
    for cpu in arguments.cpu or CPUS:
        python, variables = emulator(cpu, folder)
        for runtime, optimized in RUNTIMES:
            command = [*python, *work, runtime, optimized, str(arguments.model), str(feeds), str(out)]
            label = f"| {cpu} | {runtime} | {optimized} |"
            try:
                ended = subprocess.run(command, env=variables, timeout=900, check=True,
                    capture_output=True, text=True)  # fmt: skip
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failure:
                reason = " ".join(str(failure.stderr or failure).split())[-160:]
                print(label, f"| | {reason} | |", flush=True)
                continue
            told = json.loads(ended.stdout.splitlines()[-1])
            layers = int8_layers(runtime, told["kinds"], Path(f"{out}.onnx"))
            with np.load(exact) as wanted, np.load(out) as found:
                for name in dict.fromkeys(key.partition(":")[2] for key in wanted.files):
                    keys = [key for key in wanted.files if key.partition(":")[2] == name]
                    ours, theirs = (np.stack([archive[key] for key in keys]) for archive in (found, wanted))
                    sqnr = compare(theirs, ours).sqnr_db
                    print(label, f"{layers} | {name} | {sqnr:.1f} | {told['seconds']:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--infer"]:
        infer(*sys.argv[2:])
    else:
        raise SystemExit(main())
