"""`edgedeploy stdo`: send a video small, with the networks overfitted to it that make it large again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedeploy.cli.console import Reporter, command_line, parse_size, print_json, print_next, print_table
from edgedeploy.cli.options import Json, Limit, Threads

if TYPE_CHECKING:
    from edgedeploy.stdo.bundle import Bundle

app = typer.Typer(no_args_is_help=True)
BundleFolder = Annotated[Path, typer.Argument(help="Folder that encode wrote.", show_default=False)]


@app.command("encode", help="Shrink a video, and train the networks that restore it.")
def encode_command(
    video: Annotated[Path, typer.Argument(help="Video file to encode.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the bundle.", show_default=False)],
    scale: Annotated[int | None, typer.Option(help="2, 3 or 4; default: the network's.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Network of the zoo; default: stdo_espcn_x2 (or x3, x4).")
    ] = None,
    chunks: Annotated[
        int | None, typer.Option(help="Networks, for patches of like difficulty; default: 2.")
    ] = None,
    joint: Annotated[bool, typer.Option("--joint", help="One network, trained on the hard patches.")] = False,
    steps: Annotated[int, typer.Option(help="Updates of each network.")] = 2000,
    batch: Annotated[int, typer.Option(help="Patches in an update.")] = 16,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    crf: Annotated[float, typer.Option(help="Quality of the small video, 0 to 51; less is better.")] = 18.0,
    precision: Annotated[str, typer.Option(help="Of the weights: auto, fp32, fp16 or int8.")] = "auto",
    patch: Annotated[str, typer.Option(metavar="HxW", help="Size of a patch in the small video.")] = "54x48",
    halo: Annotated[
        int | None, typer.Option(help="Pixels that a patch sees around it; default: what its network can.")
    ] = None,
    limit: Limit = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to PyTorch.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    json: Json = False,
) -> None:
    from edgedeploy.core.extras import require_export

    require_export(data=True)
    from edgedeploy.encode.options import PATCH, EncodeOptions
    from edgedeploy.encode.run import encode
    from edgedeploy.models.training.threads import use_threads

    use_threads(threads)
    options = EncodeOptions(
        model=model or f"stdo_espcn_x{scale or 2}",
        scale=scale,
        chunks=chunks,
        joint=joint,
        steps=steps,
        batch=batch,
        seed=seed,
        crf=crf,
        precision=precision,
        patch=parse_size(patch) or PATCH,
        halo=halo,
        limit=limit,
    )
    bundle = encode(video, out, options, Reporter(quiet=json), force=force)
    _tell(bundle, json)
    if not json:
        print_next(command_line("stdo", "play", out, "--reference", video, "--sink", "restored.mp4"))


@app.command("play", help="Restore a bundle's video and show or write it; needs no torch.")
def play_command(
    bundle: BundleFolder,
    sink: Annotated[
        str, typer.Option(help="window, a file (.mp4, .mkv), a folder for pictures, or null.")
    ] = "window",
    reference: Annotated[
        Path | None, typer.Option(help="The source video, to measure against.", show_default=False)
    ] = None,
    view: Annotated[str, typer.Option(help="result or side-by-side.")] = "result",
    backend: Annotated[
        str | None, typer.Option(help="Runtime; default: the first that is installed.", show_default=False)
    ] = None,
    limit: Limit = None,
    threads: Threads = 0,
    json: Json = False,
) -> None:
    from edgedeploy.stdo.bundle import open_bundle
    from edgedeploy.stdo.player import play

    reporter = Reporter(quiet=json)
    opened = open_bundle(bundle)
    with reporter.stage(f"play {bundle}") as stage:
        stats = play(
            opened,
            sink,
            reference=reference,
            view=view,
            limit=limit,
            backend=backend,
            threads=threads,
            on_frame=stage.progress,
        )
    if json:
        print_json({"demo": vars(stats.demo), "psnr": stats.psnr, "sound": stats.sound})
        return
    cells: dict[str, Any] = {
        "frames": stats.demo.frames,
        "fps": f"{stats.demo.fps:.1f}",
        "networks p50 ms": f"{stats.demo.model_ms_p50:.1f}",
        "written": stats.demo.path or "nothing",
    }
    if stats.psnr is not None:
        cells["PSNR dB"] = f"{stats.psnr:.2f}"
    print_table(("play", ""), cells.items())
    if stats.sound and stats.demo.path is not None:
        reporter.note(f"{stats.demo.path} has no sound: {stats.sound}")
    print_next(command_line("stdo", "info", bundle))


@app.command("info", help="Bytes and quality of a bundle.")
def info_command(bundle: BundleFolder, json: Json = False) -> None:
    from edgedeploy.stdo.bundle import open_bundle

    _tell(open_bundle(bundle), json)


def _tell(bundle: Bundle, json: bool) -> None:
    manifest = bundle.manifest
    if json:
        print_json({**manifest.model_dump(mode="json"), "total_bytes": bundle.total_bytes})
        return
    patches = bundle.chunks.size
    rows: list[tuple[object, ...]] = [
        (f"{manifest.video.file}, {manifest.low_width}x{manifest.low_height}", manifest.video.bytes, "", ""),
        *(
            (
                f"{model.file}, {manifest.precision}",
                model.bytes,
                f"{model.patches / patches:.0%}",
                _db(model.psnr),
            )
            for model in manifest.models
        ),
    ]
    if manifest.chunks is not None:
        rows.append((manifest.chunks.file, manifest.chunks.bytes, "", ""))
    rows.append(("all, with the manifest", bundle.total_bytes, "100%", _db(manifest.psnr.result)))
    rows.append((f"bicubic x{manifest.scale}", "", "100%", _db(manifest.psnr.bicubic)))
    if manifest.psnr.general is not None:
        rows.append(("one general network", "", "100%", _db(manifest.psnr.general)))
    title = (
        f"{manifest.width}x{manifest.height}, {manifest.frames} frames, source {manifest.source_bytes} bytes"
    )
    print_table(("part", "bytes", "patches", "PSNR dB"), rows, title)


def _db(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
