"""Mux the sound of one file with the pictures of another; packets are copied, not encoded again."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgedeploy.core.errors import first_line
from edgedeploy.core.files import replacing
from edgedeploy.vision.video import open_video, require_av


def copy_sound(pictures: Path, sound: Path, out: Path, offset: float = 0.0) -> str:
    """Write the pictures of one file with the first audio stream of another to `out`, which may be either.

    `offset`: time in the audio, in seconds, at which the pictures begin. Audio after the last picture is
    omitted. Returns "", or the reason why nothing was written: no audio, or a container that cannot hold it.
    """
    av = require_av()
    with open_video(str(pictures)) as video, open_video(str(sound)) as source:
        if not source.streams.audio:
            return "it has no sound"
        length = video.duration / av.time_base if video.duration else float("inf")
        try:
            with replacing(out) as temporary, av.open(str(temporary), "w") as target:
                shown = target.add_stream_from_template(video.streams.video[0])
                heard = target.add_stream_from_template(source.streams.audio[0])
                parts = heapq.merge(
                    _packets(video, video.streams.video[0], shown, 0.0, float("inf")),
                    _packets(source, source.streams.audio[0], heard, offset, length),
                    key=lambda part: part[0],
                )
                for _, packet in parts:
                    target.mux(packet)
        except (av.error.FFmpegError, ValueError) as error:
            return f"its sound does not go into {out.suffix}: {first_line(error)}"
    return ""


def _packets(
    container: Any, stream: Any, target: Any, offset: float, length: float
) -> Iterator[tuple[float, Any]]:
    """(seconds, packet) of a stream, moved to the target stream and `offset` seconds earlier."""
    shift = round(offset / stream.time_base)
    for packet in container.demux(stream):
        if packet.dts is None:  # the end
            continue
        packet.dts -= shift
        packet.pts = packet.dts if packet.pts is None else packet.pts - shift
        seconds = float(packet.dts * stream.time_base)
        if seconds >= length:
            return
        packet.stream = target
        yield seconds, packet
