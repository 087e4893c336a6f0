"""Rows of the STDO comparison as a table and as a plot of quality over bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.core.files import replacing


@dataclass(frozen=True)
class Row:
    """One method on one clip.

    Attributes:
        method: its name.
        networks, updates: how many are sent, and updates of all that were trained.
        crf: of the video that is sent.
        video_bytes, network_bytes, total_bytes: of the video; of networks, chunk map and manifest; of all.
        psnr: dB.
        curve: (bytes, dB) of qualities of video that were tried.
        general: dB of the network that the others began from, with its share of the updates.
        same_video_bicubic: dB of interpolation of the very video that is sent.
    """

    method: str
    networks: int
    updates: int
    crf: float
    video_bytes: int
    network_bytes: int
    total_bytes: int
    psnr: float
    curve: Sequence[Sequence[float]]
    general: float | None = None
    same_video_bicubic: float | None = None


@dataclass(frozen=True)
class Case:
    """The rows of one clip at one scale."""

    clip: str
    scale: int
    rows: Sequence[Row]


def table(cases: Sequence[Case]) -> str:
    """Markdown: a row for each clip, scale and method, best first."""
    heads = ("clip", "method", "updates", "video bytes", "networks' bytes", "all bytes", "PSNR dB",
             "general network before, dB", "bicubic of that video, dB")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for case in cases:
        for row in sorted(case.rows, key=lambda row: -row.psnr):
            cells = [
                f"{case.clip} x{case.scale}",
                row.method if row.networks < 2 else f"{row.networks} networks, one a chunk",
                f"{row.updates:,}" if row.updates else "",
                f"{row.video_bytes:,}",
                f"{row.network_bytes:,}" if row.network_bytes else "",
                f"{row.total_bytes:,}",
                f"{row.psnr:.2f}",
                "" if row.general is None else f"{row.general:.2f}",
                "" if row.same_video_bicubic is None else f"{row.same_video_bicubic:.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(cases: Sequence[Case], out: Path) -> None:
    """A panel for each case: lines where only the video's quality decides, points for networks; a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(2, len(cases))
    lines = -(-len(cases) // columns)
    figure = Figure(figsize=(6.0 * columns, 4.2 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for index, case in enumerate(cases):
        axes = figure.add_subplot(lines, columns, index + 1)
        markers = iter("o^sDv")
        for row in case.rows:
            label = f"{row.method}: {row.psnr:.2f} dB"
            if row.curve:
                sizes, values = zip(*row.curve, strict=True)
                axes.plot([size / 1000 for size in sizes], values, marker=".", label=label)
            else:
                axes.plot([row.total_bytes / 1000], [row.psnr], next(markers), label=label)
        # x264 at full size is decibels away and would press all else into a line: its label says where.
        near = [row.psnr for row in case.rows if row.networks or row.same_video_bicubic]
        near += [psnr for row in case.rows if row.method == "bicubic" for _, psnr in row.curve]
        sent = case.rows[0].total_bytes / 1000
        axes.set_xlim(0.5 * sent, 1.5 * sent)
        axes.set_ylim(min(near) - 0.2, max(near) + 0.6)
        axes.set_title(f"{case.clip}, x{case.scale}")
        axes.set_xlabel("kB of everything sent")
        axes.set_ylabel("PSNR of RGB, dB")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=110)
