"""What ships, and why: candidates and verdicts of `--precision auto`, a table for each model.

    python -m benchmarks.guard [NAME ...] --shared ../shared

Real weights and real data: calibration and scored images are never the same. Other programs on the machine
move the times of all candidates alike, and the choice between two that are close.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.cli.build_report import print_build, write_report
from edgedeploy.cli.console import Reporter
from edgedeploy.core.cache import Cache
from edgedeploy.core.errors import BudgetError
from edgedeploy.core.job import Job
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.target import load_target
from edgedeploy.pipeline import deliver, run

PP_OCR = (
    "task.name=text-detection",
    "task.options.channel_order=BGR",
    "task.options.mean=[123.675,116.28,103.53]",
    "task.options.std=[58.395,57.12,57.375]",
)


@dataclass(frozen=True)
class Case:
    """One model: where its data is below the folder of shared material, and the budget if not the task's."""

    source: str
    data: str
    size: tuple[int, int]
    labeled: str | None = None
    edits: tuple[str, ...] = ()
    target: str = "cpu"
    note: str = ""


CASES = {
    "espcn": Case("espcn_x3", "data/sr/T91", (360, 640), "data/sr/Set5"),
    "espcn-rtx": Case("espcn_x3", "data/sr/T91", (360, 640), "data/sr/Set5", target="rtx-4090"),
    "ppocr": Case(
        "data/models/ppocrv3_det_DBNet.onnx",
        "data/text_icdar13/train_images",
        (640, 640),
        edits=(*PP_OCR, 'guard.budget=["agreement>=0.985","worst>=0.93"]'),
    ),
    "ddrnet": Case(
        "ddrnet_23_slim",
        "data/camvid/train",
        (384, 480),
        "data/camvid/val",
        note="with the weights that are bundled, random ones where none are: then only times mean something",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder of real data")
    parser.add_argument("--images", type=int, default=32, help="to calibrate on; half as many are scored")
    parser.add_argument("--out", type=Path, default=Path("out/guard"), help="folder for models and reports")
    arguments = parser.parse_args()
    for name in arguments.names:
        print(f"\n## {name}\n")
        show(name, CASES[name], arguments.shared, arguments.images, arguments.out)


def show(name: str, case: Case, shared: Path, images: int, out: Path) -> None:
    """Decide for one model, print the table and keep model and report in `out`."""
    foreign = case.source.endswith(".onnx")
    size = () if foreign else (f"capture.height={case.size[0]}", f"capture.width={case.size[1]}")
    edits = ["precision=auto", f"calibration.limit={images}", f"guard.scored={images // 2}"]
    job = Job(
        str(shared / case.source) if foreign else case.source,
        Recipe().edited([*edits, *size, *case.edits]),
        load_target(case.target),
        shared / case.data,
        size=case.size if foreign else None,
        labeled=shared / case.labeled if case.labeled else None,
    )
    try:
        artifact = run(job, Reporter(), Cache())
    except BudgetError as error:
        print(error)
        return
    kept = deliver(artifact, out / f"{name}{artifact.path.suffix}")
    print(kept.details.guard.sentence + "\n")
    print_build(kept)
    write_report(kept, out / f"{name}.md")
    if case.note:
        print(case.note)


if __name__ == "__main__":
    main()
