"""Spoilt files and arguments for every command: no traceback, no hang, no dead process, no gigabytes.

    python -m benchmarks.fuzz --cases 10000 --seed 0 --workers 2

A case is a valid file of some kind (see fuzz_inputs.py), spoilt by a generator of that seed and number, and a
command that reads it, in a process of its own with limits of time and memory. Whatever works, or ends in one
clear error, is fine. Everything else is listed with its number; `--case N` runs one again and prints all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.fuzz_inputs import Kind, Samples, spoil_bytes

SECONDS, GIGABYTES = 30.0, 4.0
FINE = {0, 2, 3, 4, 5}
# What a shell shows of a Python error that nobody caught.
TRACEBACK = b"Traceback (most recent call last)"


@dataclass(frozen=True)
class Ending:
    """How a case ended.

    Attributes:
        case, kind: number and kind of the input.
        command: the verb.
        outcome: "fine", "traceback", "hang", "died", "memory" or "exit code".
        detail: signal, code or last line.
        seconds, gigabytes: of the process.
    """

    case: int
    kind: str
    command: str
    outcome: str
    detail: str
    seconds: float
    gigabytes: float


def prepare(number: int, seed: int, every: dict[str, Kind], folder: Path) -> tuple[str, list[str]]:
    """The kind of a case and its command; writes the spoilt file."""
    rng = random.Random(f"{seed} {number}")  # noqa: S311  # not a secret
    name = rng.choice(sorted(every))
    kind = every[name]
    data = rng.choice(kind.samples)
    by_meaning = kind.spoil is not None and rng.random() < 0.7
    spoilt = kind.spoil(data, rng) if by_meaning and kind.spoil else spoil_bytes(data, rng)
    path = folder / f"case{kind.suffix}"
    path.write_bytes(spoilt)
    return name, rng.choice(kind.commands(path, folder))


def run(command: list[str], folder: Path) -> tuple[int, bytes, float, float]:
    """Wait status, output, seconds and peak gigabytes of a command in a forked process; -1 for a hang.

    A fork shares the imports that its parent made, without which most of the time would go into importing.
    """
    log = folder / "log"
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_command(command, log)
    status, usage, done = 0, None, 0
    while not done and time.monotonic() - begin < SECONDS:
        done, status, usage = os.wait4(child, os.WNOHANG)
        time.sleep(0.01)
    if not done:
        os.kill(child, signal.SIGKILL)
        _, _, usage = os.wait4(child, 0)
        status = -1
    seconds = time.monotonic() - begin
    return (
        status,
        log.read_bytes() if log.exists() else b"",
        seconds,
        (usage.ru_maxrss if usage else 0) / 2**20,
    )


def _be_the_command(command: list[str], log: Path) -> None:
    """What a child does; never returns."""
    code = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        limit = int(2 * GIGABYTES * 2**30)  # of addresses, of which libraries reserve more than they use
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        os.environ["EDGEDEPLOY_CACHE"] = str(log.parent / "cache")
        sys.argv = ["edgedeploy", *command]
        from edgedeploy.cli.app import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  # it is what the case looks for
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def judge(status: int, output: bytes, gigabytes: float) -> tuple[str, str]:
    """Outcome and detail of a wait status and the output."""
    last = output.strip().splitlines()[-1].decode(errors="replace")[:160] if output.strip() else ""
    if status == -1:
        return "hang", f"over {SECONDS:.0f} s"
    if os.WIFSIGNALED(status):
        return "died", signal.Signals(os.WTERMSIG(status)).name
    if TRACEBACK in output:
        return "traceback", last
    if gigabytes > GIGABYTES:
        return "memory", f"{gigabytes:.1f} GB"
    if os.WEXITSTATUS(status) not in FINE:
        return "exit code", f"{os.WEXITSTATUS(status)}: {last}"
    return "fine", ""


def fuzz(numbers: range, seed: int, samples: Path, report: Path, only: list[str]) -> None:
    """Run cases one after another and append a line of JSON for each."""
    import onnxruntime  # noqa: F401  # what every child would import again
    import openvino  # noqa: F401

    import edgedeploy.calibration
    import edgedeploy.cli.app
    import edgedeploy.demo.run
    import edgedeploy.models.checkpoint  # noqa: F401

    every = _chosen(samples, only)
    with report.open("a") as lines:
        for number in numbers:
            folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
            kind, command = prepare(number, seed, every, folder)
            status, output, seconds, gigabytes = run(command, folder)
            outcome, detail = judge(status, output, gigabytes)
            ending = Ending(number, kind, command[0], outcome, detail, round(seconds, 2), round(gigabytes, 2))
            lines.write(json.dumps(asdict(ending)) + "\n")
            lines.flush()
            shutil.rmtree(folder, ignore_errors=True)


def _chosen(samples: Path, only: list[str]) -> dict[str, Kind]:
    every = Samples(samples).kinds()
    return {name: every[name] for name in only or every}


def show(number: int, seed: int, keep: Path, only: list[str]) -> None:
    """One case again, with its command and output; its files stay."""
    shutil.rmtree(keep, ignore_errors=True)
    keep.mkdir(parents=True)
    kind, command = prepare(number, seed, _chosen(keep / "samples", only), keep)
    print(kind, *command)
    status, output, seconds, gigabytes = run(command, keep)
    print(output.decode(errors="replace"))
    print(*judge(status, output, gigabytes), f"{seconds:.1f} s, {gigabytes:.2f} GB")


def summarize(report: Path) -> int:
    """Print the counts and everything that is not fine; 1 if there is anything."""
    endings = [Ending(**json.loads(line)) for line in report.read_text().splitlines()]
    for (kind, outcome), count in sorted(Counter((e.kind, e.outcome) for e in endings).items()):
        print(f"{kind:12} {outcome:10} {count}")
    bad = [ending for ending in endings if ending.outcome != "fine"]
    for ending in sorted(bad, key=lambda e: (e.outcome, e.kind, e.detail)):
        print(f"case {ending.case}: {ending.outcome} in {ending.command} of {ending.kind}: {ending.detail}")
    slowest, largest = max(e.seconds for e in endings), max(e.gigabytes for e in endings)
    print(f"{len(endings)} cases, {len(bad)} not fine; slowest {slowest:.1f} s, largest {largest:.2f} GB")
    return int(bool(bad))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--case", type=int, help="run this case alone and print what it does")
    parser.add_argument("--kinds", nargs="+", default=[], help="only these; all by default")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"))
    chosen = parser.parse_args(arguments)
    if chosen.case is not None:
        show(chosen.case, chosen.seed, chosen.out / f"case-{chosen.case}", chosen.kinds)
        return 0
    chosen.out.mkdir(parents=True, exist_ok=True)
    report = chosen.out / f"seed-{chosen.seed}.jsonl"
    report.unlink(missing_ok=True)
    workers = []
    for worker in range(chosen.workers):
        child = os.fork()
        if child == 0:
            numbers = range(worker, chosen.cases, chosen.workers)
            fuzz(numbers, chosen.seed, chosen.out / f"samples-{worker}", report, chosen.kinds)
            os._exit(0)
        workers.append(child)
    lost = sum(os.waitpid(worker, 0)[1] != 0 for worker in workers)
    return summarize(report) or lost


if __name__ == "__main__":
    sys.exit(main())
