"""STDO beside one general network, interpolation and x264, at equal bytes: `python -m benchmarks.stdo`.

Networks of two chunks set the bytes of a clip, at the product's quality of the small video. Every other
method gets as many: what one network saves, a finer small video takes, and interpolation and x264 spend
all on video. What chunks do for the same small video, in fewer bytes, is measured too. All methods make as
many updates in all, the general network before the chunks counted. PSNR is of RGB in 8 bit, over all pixels
of all frames. A run that was stopped goes on by the same command.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.stdo_rates import Rates, bicubic, shrink_source
from benchmarks.stdo_report import Case, Row, plot, table
from edgedeploy.cli.console import Reporter, parse_size
from edgedeploy.core.files import write_text
from edgedeploy.encode.options import EncodeOptions
from edgedeploy.encode.run import encode
from edgedeploy.stdo.bundle import Bundle, open_bundle

PER_CHUNK, JOINT, GENERAL = "network per chunk", "joint network", "general network"
SAME_VIDEO = ", the chunks' video"
BICUBIC, X264 = "bicubic", "x264, full size"


@dataclass(frozen=True)
class Plan:
    """What is measured; results of another plan are not mixed with it.

    Attributes:
        size: height and width that clips are shrunk to.
        frames: from the beginning of each.
        steps: updates of each method in all.
        network: family in the zoo, without its scale.
        batch, patch, crf, chunks: as `edgedeploy stdo encode` has them.
    """

    network: str

    size: tuple[int, int]
    frames: int
    steps: int
    batch: int
    patch: tuple[int, int]
    crf: float
    chunks: int


def measure(clip: Path, scale: int, plan: Plan, folder: Path) -> Case:
    """All rows of one clip at one scale, those that `folder` has from an earlier run included."""
    folder.mkdir(parents=True, exist_ok=True)
    kept, wanted = folder / "rows.json", json.loads(json.dumps(asdict(plan)))
    found = json.loads(kept.read_text()) if kept.is_file() else {"plan": wanted, "rows": []}
    if found["plan"] != wanted:
        raise SystemExit(f"{folder} holds another plan, {found['plan']}: choose another --out")
    rows = [Row(**row) for row in found["rows"]]
    source = folder / "source.mp4"
    if not source.is_file():
        shrink_source(clip, source, plan.size, plan.frames)
    for row in _missing(source, scale, plan, folder, {row.method: row for row in rows}):
        rows.append(row)
        write_text(kept, json.dumps({"plan": wanted, "rows": [asdict(row) for row in rows]}, indent=1))
        print(
            f"  {clip.stem} x{scale} {row.method}: {row.psnr:.2f} dB, {row.total_bytes:,} bytes", flush=True
        )
    return Case(clip.stem, scale, rows)


def _missing(source: Path, scale: int, plan: Plan, folder: Path, done: dict[str, Row]) -> Iterator[Row]:
    if PER_CHUNK not in done:
        yield _bundle(PER_CHUNK, source, scale, plan, folder, plan.crf)
    if not done.keys() >= {BICUBIC, X264, JOINT, GENERAL}:
        yield from _at_equal_bytes(source, scale, plan, folder, done)
    for method in (GENERAL, JOINT):
        if method + SAME_VIDEO not in done:
            yield _bundle(method + SAME_VIDEO, source, scale, plan, folder, plan.crf)


def _at_equal_bytes(
    source: Path, scale: int, plan: Plan, folder: Path, done: Mapping[str, Row]
) -> Iterator[Row]:
    first = open_bundle(_place(folder, PER_CHUNK))
    total = first.total_bytes
    rates = Rates(source, folder)
    low = rates.low(scale)
    for method, pictures, enlarge in ((BICUBIC, low, bicubic(scale)), (X264, rates.high, None)):
        if method not in done:
            best, tried = rates.within(pictures, total)
            curve = sorted((one.bytes, rates.psnr(one.video, enlarge)) for one in tried)
            yield Row(method, 0, 0, best.crf, best.bytes, 0, best.bytes, dict(curve)[best.bytes], curve)
    # A network is as large in every bundle, and a manifest of one network is no larger than that of several.
    spent = first.models[0].path.stat().st_size + (first.folder / "manifest.json").stat().st_size
    # Kept: an encoding that goes on is asked for as it was, and x264 need not write the same bytes twice.
    kept = folder / "crf.json"
    if not kept.is_file():
        write_text(kept, json.dumps(rates.within(low, total - spent)[0].crf))
    crf = float(json.loads(kept.read_text()))
    for method in (JOINT, GENERAL):
        if method not in done:
            yield _bundle(method, source, scale, plan, folder, crf)


def _bundle(method: str, source: Path, scale: int, plan: Plan, folder: Path, crf: float) -> Row:
    kind = method.removesuffix(SAME_VIDEO)
    trainings = {PER_CHUNK: 1 + plan.chunks, JOINT: 2, GENERAL: 1}[kind]
    options = EncodeOptions(
        model=f"{plan.network}_x{scale}",
        chunks={PER_CHUNK: plan.chunks, JOINT: None, GENERAL: 1}[kind],
        joint=kind == JOINT,
        steps=plan.steps // trainings,
        batch=plan.batch,
        crf=crf,
        precision="fp16",
        patch=plan.patch,
    )
    out = _place(folder, method)
    # A bundle without its row: the run was stopped between the two.
    whole = (out / "manifest.json").is_file()
    bundle: Bundle = open_bundle(out) if whole else encode(source, out, options, Reporter())
    manifest = bundle.manifest
    return Row(
        method,
        len(manifest.models),
        trainings * options.steps,
        crf,
        manifest.video.bytes,
        bundle.total_bytes - manifest.video.bytes,
        bundle.total_bytes,
        manifest.psnr.result,
        [],
        general=manifest.psnr.general,
        same_video_bicubic=manifest.psnr.bicubic,
    )


def _place(folder: Path, method: str) -> Path:
    return folder / re.sub(r"\W+", "_", method)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", nargs="+", default=["bbb_1080p_5s", "road_solidWhiteRight"])
    parser.add_argument("--scales", nargs="+", type=int, default=[2, 3], choices=(2, 3, 4))
    parser.add_argument("--size", default="360x640", help="HEIGHTxWIDTH that clips are shrunk to")
    parser.add_argument("--network", default="stdo_espcn_micro", help="of the zoo, without _x2")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--steps", type=int, default=1500, help="updates of each method in all")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", default="24x32", help="of the small video, HEIGHTxWIDTH")
    parser.add_argument("--crf", type=float, default=18.0, help="of the small video beside the chunks")
    parser.add_argument("--chunks", type=int, default=2)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder of real data")
    parser.add_argument("--out", type=Path, default=Path("out/stdo"))
    arguments = parser.parse_args()
    size, patch = parse_size(arguments.size), parse_size(arguments.patch)
    if size is None or patch is None:
        parser.error("sizes are HEIGHTxWIDTH")
    plan = Plan(
        arguments.network,
        size,
        arguments.frames,
        arguments.steps,
        arguments.batch,
        patch,
        arguments.crf,
        arguments.chunks,
    )
    cases = []
    for name in arguments.clips:
        clip = arguments.shared / "data/video" / f"{name}.mp4"
        if not clip.is_file():
            raise SystemExit(f"there is no {clip}: name its folder with --shared")
        for scale in arguments.scales:
            cases.append(measure(clip, scale, plan, arguments.out / f"{name}_x{scale}"))
            write_text(arguments.out / "table.md", table(cases))
            plot(cases, arguments.out / "stdo.png")
    print(table(cases))


if __name__ == "__main__":
    main()
