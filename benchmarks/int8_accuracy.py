"""What INT8 costs in accuracy, ours beside the peers': `python -m benchmarks.int8_accuracy --peers PYTHON`.

    python -m venv peers
    peers/bin/pip install nncf==3.4.0 'nvidia-modelopt[onnx]' openvino onnxruntime
    python -m benchmarks.int8_accuracy --peers peers/bin/python --only espcn-x3 dbnet

Every tool gets the same folded float32 file and the same calibration inputs, and is scored on other images,
in ONNX Runtime with its optimizations off: the arithmetic that the Q/DQ file says, and no runtime's kernels.
Ours is shown for the rule set of each kind of runtime; `int8` is the share of multiplications in INT8.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from benchmarks.int8_cases import CASES, Case, Feeds, NoWeights, Run
from benchmarks.surgery import Worker
from edgedeploy.calibration import quantize

PEERS = ("NNCF", "modelopt", "ONNX Runtime")
OURS = ("openvino", "tensorrt", "onnxruntime")


def opened(model: Path, threads: int) -> Run:
    """A network as a function of feeds, exactly as its graph says."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]

    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run


def save_feeds(feeds: list[Feeds], path: Path) -> None:
    arrays = {f"{i}:{name}": value for i, row in enumerate(feeds) for name, value in row.items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def in_int8(path: Path) -> float:
    """Share of the weights' multiplications that run in INT8, weighed by their outputs' sizes."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    sizes = {
        value.name: np.prod([d.dim_value or 1 for d in value.type.tensor_type.shape.dim])
        for value in (*model.graph.value_info, *model.graph.output)
    }
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    shapes = {entry.name: tuple(entry.dims) for entry in model.graph.initializer}
    for node in model.graph.node:  # a weight may be stored as codes, or as floats before Q/DQ
        if node.op_type in {"QuantizeLinear", "DequantizeLinear", "Cast"} and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    total = done = 0.0
    for node in model.graph.node:
        dims = (
            shapes.get(node.input[1]) if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"} else None
        )
        if not dims:
            continue
        depth = float(np.prod(dims[1:] if node.op_type == "Conv" else dims[:1]))
        work = depth * float(sizes.get(node.output[0], 1))
        total += work
        both = all(made.get(name) == "DequantizeLinear" for name in node.input[:2])
        done += work if both else 0.0
    return done / total if total else 0.0


def rows(case: Case, workers: list[Worker], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Scores of float, ours and the peers."""
    reference = opened(case.model, arguments.threads)
    base = case.scores(reference, reference)
    yield {"tool": "float32", "scores": base}
    feeds_file = arguments.out / "feeds.npz"
    save_feeds(case.feeds, feeds_file)
    for rules in arguments.rules:
        out, start = case.model.with_suffix(f".{rules}.onnx"), time.perf_counter()
        model = onnx.load(case.model)
        options: dict[str, Any] = {"method": arguments.method} if arguments.method else {}
        if arguments.corrections is not None:
            options["corrections"] = arguments.corrections
        onnx.save(quantize(model, lambda: case.feeds, rules=rules, **options).model, out)
        seconds = time.perf_counter() - start
        yield scored(f"ours, {rules}", case, out, reference, base, seconds, arguments.threads)
    for worker in workers:
        out = case.model.with_suffix(f".{worker.tool.replace(' ', '')}.onnx")
        out.unlink(missing_ok=True)
        answer = worker.request({"source": str(case.model), "feeds": str(feeds_file), "out": str(out)})
        if answer["error"]:
            yield {"tool": worker.tool, "error": answer["error"]}
        else:
            yield scored(worker.tool, case, out, reference, base, answer["seconds"], arguments.threads)


def scored(
    tool: str, case: Case, out: Path, reference: Run, base: dict[str, float], seconds: float, threads: int
) -> dict[str, Any]:
    try:
        scores = case.scores(opened(out, threads), reference)
    except Exception as failure:  # noqa: BLE001  a file that does not run is a row of the table
        return {"tool": tool, "error": f"{type(failure).__name__}: {failure}".splitlines()[0][:160]}
    missed = [name for name, most in case.allowed.items() if base[name] - scores[name] > most]
    return {"tool": tool, "scores": scores, "missed": missed, "int8": in_int8(out), "seconds": seconds}


def print_case(case: Case, found: list[dict[str, Any]]) -> None:
    """The table of one model; a metric outside its budget has an exclamation mark."""
    base = found[0]["scores"]
    print(f"\n{case.name}: {len(case.feeds)} calibration inputs\n")
    print(f"| tool | {' | '.join(f'{name} (change)' for name in base)} | int8 | seconds |")
    print("|---|" + "---|" * (len(base) + 2))
    for row in found:
        if "error" in row:
            print(f"| {row['tool']} | {row['error']} |" + " |" * (len(base) + 1))
            continue
        cells = [
            f"{value:.3f} ({value - base[name]:+.3f})" + (" !" if name in row.get("missed", ()) else "")
            for name, value in row["scores"].items()
        ]
        tail = [f"{row['int8']:.0%}", f"{row['seconds']:.1f}"] if "int8" in row else ["", ""]
        print(f"| {' | '.join([row['tool'], *cells, *tail])} |", flush=True)


def behind(found: list[dict[str, Any]]) -> list[str]:
    """Metrics in which the best of ours is worse than a peer."""
    ours = [row for row in found if row["tool"].startswith("ours") and "scores" in row]
    lines = []
    for row in found:
        if row["tool"] in PEERS and "scores" in row and ours:
            for name, value in row["scores"].items():
                best = max(entry["scores"][name] for entry in ours)
                if best < min(value, found[0]["scores"][name]):  # above float is luck
                    lines.append(f"{name}: {row['tool']} {value:.3f}, ours {best:.3f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", help="interpreter in which the peers are installed; without it ours alone")
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rules", nargs="*", default=list(OURS))
    parser.add_argument("--tools", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--method", help="calibrator of ours; the default without it")
    parser.add_argument("--corrections", nargs="*", help="of ours; the rule set's own without it")
    parser.add_argument("--images", type=int, default=32, help="calibration inputs")
    parser.add_argument("--limit", type=int, default=60, help="images scored where a set has more")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/int8"), help="folder for models")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    workers = [Worker(tool, arguments.peers, "int8_worker.py") for tool in arguments.tools if arguments.peers]
    lost = []
    try:
        for name in arguments.only:
            try:
                case = CASES[name](arguments.out, arguments.images, arguments.limit)
            except NoWeights as missing:
                print(f"\n{missing}: no weights are bundled", flush=True)
                continue
            found = list(rows(case, workers, arguments))
            print_case(case, found)
            lost += [f"{case.name}: {line}" for line in behind(found)]
    finally:
        for worker in workers:
            worker.close()
    print("\nbehind a peer: " + ("; ".join(lost) or "nowhere"))


if __name__ == "__main__":
    main()
