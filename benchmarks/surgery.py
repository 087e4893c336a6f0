"""Graph surgery beside other projects' simplifiers: `python -m benchmarks.surgery`.

    python -m venv peers
    peers/bin/pip install onnxslim==0.1.98 onnxsim==0.8.1 onnxoptimizer==0.4.2 onnxscript==0.7.2 onnxruntime
    python -m benchmarks.surgery --peers peers/bin/python MODEL.onnx ... --zoo espcn_x3 ddrnet_23_slim

Every tool works in a process of its own, so that a crash is a figure and not the end. On the models of the
`onnx` package's backend suite it is counted what each tool breaks; on the models given, and on the zoo's as
exported, the nodes and norms that it leaves, and the seconds that it takes (the least of some runs, reading
and writing not counted).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.backend.test

from benchmarks.survey import by_size
from edgedeploy.core.parity import of_pass
from edgedeploy.export.counts import count_model
from edgedeploy.export.prove.proof import Refuted, output_difference
from edgedeploy.graphs.feeds import feed_sets
from edgedeploy.graphs.run import Evaluator, NotRunnable

PEERS = ("OnnxSlim", "onnxsim", "onnxoptimizer", "onnxscript")
OURS = ("edgedeploy", "edgedeploy, proved")
SUITES = ("pytorch-converted", "pytorch-operator", "simple")
# Larger differences are not rounding.
WRONG = 1e-3


@dataclass(frozen=True)
class Row:
    """What a tool made of a model; `verdict` is "right", "wrong", "crashed" or what it said."""

    verdict: str
    nodes: int = 0
    norms: int = 0
    seconds: float = 0.0


class Worker:
    """A tool in a process that is started again where it dies."""

    def __init__(self, tool: str, python: str, script: str = "simplifier_worker.py") -> None:
        self.tool, self.python, self.script = tool, python, Path(__file__).with_name(script)
        self.process: subprocess.Popen[str] | None = None

    def ask(self, source: Path, out: Path, runs: int) -> dict[str, Any]:
        """Its answer, {"error": "crashed"} if it dies over the question."""
        return self.request({"source": str(source), "out": str(out), "runs": runs})

    def request(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to any question that the script understands."""
        if self.process is None:
            self.process = subprocess.Popen(
                [self.python, str(self.script), self.tool],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        talk, listen = self.process.stdin, self.process.stdout
        if talk is None or listen is None:
            raise RuntimeError("the process has no pipes")
        try:
            talk.write(json.dumps(question) + "\n")
            talk.flush()
            line = listen.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.close()
            return {"error": "crashed"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def judge(worker: Worker, source: Path, folder: Path, runs: int) -> Row:
    """Run a tool on a model and compare what comes out in ONNX Runtime, its optimizations off."""
    out = folder / "out.onnx"
    out.unlink(missing_ok=True)
    answer = worker.ask(source, out, runs)
    if answer["error"]:
        return Row(answer["error"])
    before, after = onnx.load(source), onnx.load(out)
    counts = count_model(after)
    try:
        evaluator, changed = Evaluator(before), Evaluator(after)
        found = [output_difference(y, changed(x)) for x, y in feed_sets(evaluator, 1)]
    except (NotRunnable, Refuted) as reason:
        return Row(f"wrong: {reason}", counts.nodes, counts.norms, answer["seconds"])
    right = all(map(of_pass(WRONG).accepts, found))
    return Row("right" if right else "wrong", counts.nodes, counts.norms, answer["seconds"])


def suite_models(folder: Path) -> list[Path]:
    """Models of the backend suite that ONNX Runtime runs as they are."""
    root = Path(onnx.backend.test.__file__).parent / "data"
    runnable = []
    for path in sorted(path for suite in SUITES for path in (root / suite).rglob("model.onnx")):
        try:
            list(feed_sets(Evaluator(onnx.load(path)), 1))
        except NotRunnable:
            continue
        runnable.append(path)
    folder.mkdir(parents=True, exist_ok=True)
    return runnable


def zoo_model(name: str, folder: Path) -> Path:
    """A zoo model as PyTorch exports it, before any pass; one that is there already is taken as it is."""
    if (folder / f"{name}.onnx").exists():
        return folder / f"{name}.onnx"
    from edgedeploy.cli.console import Reporter
    from edgedeploy.core.cache import Cache
    from edgedeploy.core.job import Job
    from edgedeploy.core.recipe import Recipe
    from edgedeploy.core.target import load_target
    from edgedeploy.pipeline import deliver, run

    job = Job(name, Recipe(), load_target("cpu"), weights="random")
    return deliver(run(job, Reporter(), Cache(), "capture"), folder / f"{name}.onnx").path


def print_suite(workers: list[Worker], folder: Path) -> None:
    """Right, wrong, crashed for every tool; the first failures by name."""
    models = suite_models(folder)
    print(f"\n{len(models)} models of the backend suite that ONNX Runtime runs\n")
    print("| tool | right | wrong | failed or crashed |\n|---|---|---|---|")
    failures = []
    for worker in workers:
        rows = {path: judge(worker, path, folder, 1) for path in models}
        kinds = Counter(
            row.verdict if row.verdict in ("right",) else "wrong" if row.verdict[:5] == "wrong" else "failed"
            for row in rows.values()
        )
        print(f"| {worker.tool} | {kinds['right']} | {kinds['wrong']} | {kinds['failed']} |", flush=True)
        failures += [
            f"{worker.tool}: {path.parent.name}: {row.verdict}"
            for path, row in rows.items()
            if row.verdict != "right"
        ]
    print("\n" + "\n".join(failures))


def print_models(workers: list[Worker], models: list[Path], folder: Path, runs: int) -> None:
    """Nodes / norms (seconds) of every tool on every model, and whether ours are the fewest."""
    tools = [worker.tool for worker in workers]
    print(f"\n| model | as it is | {' | '.join(tools)} |\n|---|---|{'---|' * len(tools)}")
    behind = []
    for path in models:
        rows = {worker.tool: judge(worker, path, folder, runs) for worker in workers}
        own = count_model(onnx.load(path))
        cells = [
            f"{row.nodes} / {row.norms} ({row.seconds:.3f})" + ("" if row.verdict == "right" else " wrong")
            if row.nodes
            else "failed"
            for row in rows.values()
        ]
        print(f"| {path.stem} | {own.nodes} / {own.norms} | {' | '.join(cells)} |", flush=True)
        peers = [rows[tool] for tool in PEERS if tool in rows and rows[tool].verdict == "right"]
        ours = rows.get(OURS[0])
        if ours and peers:
            fewest = min(row.nodes for row in peers), min(row.norms for row in peers)
            if ours.nodes > fewest[0] or ours.norms > fewest[1]:
                behind.append(f"{path.stem}: {ours.nodes} / {ours.norms}, the best peers {fewest}")
            slim = rows.get("OnnxSlim")
            if slim and slim.seconds and ours.seconds > 1.5 * slim.seconds:
                behind.append(f"{path.stem}: {ours.seconds / slim.seconds:.1f} x the time of OnnxSlim")
    print("\nbehind a peer: " + ("; ".join(behind) or "nowhere"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--zoo", nargs="*", default=[], help="zoo models, random weights; all of them: all")
    parser.add_argument("--tools", nargs="*", default=[*OURS, *PEERS], help="of these, in this order")
    parser.add_argument("--peers", help="interpreter in which the peers are installed; without it ours alone")
    parser.add_argument("--no-suite", action="store_true", help="leave the backend suite out")
    parser.add_argument("--runs", type=int, default=3, help="of which the fastest counts")
    parser.add_argument("--out", type=Path, default=Path("out/surgery"), help="folder for models")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    workers = [Worker(tool, sys.executable) for tool in OURS if tool in arguments.tools]
    if arguments.peers:
        workers += [Worker(tool, arguments.peers) for tool in PEERS if tool in arguments.tools]
    try:
        if not arguments.no_suite:
            print_suite(workers, arguments.out)
        names = by_size() if arguments.zoo == ["all"] else arguments.zoo
        models = arguments.models + [zoo_model(name, arguments.out) for name in names]
        if models:
            print_models(workers, models, arguments.out, arguments.runs)
    finally:
        for worker in workers:
            worker.close()


if __name__ == "__main__":
    main()
