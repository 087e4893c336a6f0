"""What the documents promise: their commands run, their links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedeploy.core.recipe import Recipe
from tests.cli.conftest import Cli
from tests.conftest import ROOT
from tests.support.onnx_models import save_wide

PAGES = ("*.md", "docs/**/*.md", "models/weights/*.md")
DOCUMENTS = sorted(path.relative_to(ROOT) for pattern in PAGES for path in ROOT.glob(pattern))

# Commands that train for minutes are run for a moment: the last of two equal options counts.
SHORTER = {
    ("build", "espcn_x3.onnx"): ("--set", "guard.seconds=0.2", "--set", "guard.scored=2"),
    ("sensitivity", "espcn_x3.onnx"): ("--images", "1"),
    ("stdo", "encode"): ("--steps", "2", "--limit", "3", "--batch", "2"),
    ("train", "espcn_x3"): ("--set", "steps=3", "--set", "quantized_steps=1", "--workers", "0"),
}


# In the fast suite they run on small images, and what lists or times runs for a part or a moment.
SMALLER = {
    ("models",): ("espcn*",),
    ("export", "espcn_x3"): ("--size", "90x160"),
    ("bench", "espcn_x3.onnx@onnxruntime"): ("--runs", "5"),
    ("stdo", "encode"): ("--model", "stdo_espcn_micro_x2", "--chunks", "2"),
}


def commands(document: str) -> list[list[str]]:
    """The `edgedeploy` lines of a document's sh blocks, in order, as words."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("edgedeploy ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture
def width(request: pytest.FixtureRequest) -> int:
    """Of the pictures and the clip; the commands of the README name 640."""
    return int(getattr(request, "param", 640))


@pytest.fixture
def desk(tmp_path: Path, width: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the commands name: photos/ and clip.mp4."""
    import av

    (tmp_path / "photos").mkdir()
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("h264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, width * 9 // 16, "yuv420p"
        for index in range(8):
            picture = cv2.resize(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8), (width, width * 9 // 16))
            cv2.imwrite(str(tmp_path / "photos" / f"{index}.png"), picture)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("width", [160, pytest.param(640, marks=pytest.mark.slow)], indirect=True)
def test_readme_commands_run_in_order(cli: Cli, desk: Path, width: int) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    lines = commands("README.md")
    assert [words[0] for words in lines] == [
        "models", "train", "export", "optimize", "quantize", "lint", "sensitivity", "build", "build", "build",
        "bench", "eval", "demo", "stdo", "stdo", "doctor",
    ]  # fmt: skip
    for words in lines:
        more = SMALLER.get(tuple(words[:2]), ()) if width < 640 else ()
        outcome = cli(*words, *SHORTER.get(tuple(words[:2]), ()), *more)
        assert outcome.code == 0, f"{words}: {outcome.err}"
    for made in (
        "espcn_x3.onnx",
        "espcn_x3.int8.onnx",
        "espcn_x3.cpu.onnx",
        "espcn_x3.engine",
        "upscaled.mp4",
        "bundle/manifest.json",
        "restored.mp4",
    ):
        assert (desk / made).stat().st_size > 0


@pytest.mark.parametrize("width", [160], indirect=True)
def test_calibration_commands_run(cli: Cli, desk: Path) -> None:
    save_wide(desk / "model.onnx")
    lines = commands("docs/calibration.md")
    assert len(lines) >= 4
    for words in lines:
        outcome = cli(*words)
        assert outcome.code == 0, f"{words}: {outcome.err}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_and_named_files_exist(document: Path) -> None:
    text = (ROOT / document).read_text()
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        if "://" in target:
            continue
        place = (ROOT / document).parent / target if target else ROOT / document
        assert place.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)", place.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in slugs, f"{target}#{anchor}"
    for name in re.findall(r"`((?:edgedeploy|models|export|calibration|tests|benchmarks)/[\w./]*\w)`", text):
        assert (ROOT / name).exists(), name


def test_the_page_of_the_recipe_has_every_field_and_its_default() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", (ROOT / "docs/recipe.md").read_text(), re.MULTILINE)
    told: dict[str, str] = {}
    for names, defaults in rows:
        fields = re.findall(r"`([\w.]+)`", names)
        values = (
            defaults.split(", ") if len(fields) == len(defaults.split(", ")) else [defaults] * len(fields)
        )
        told |= dict(zip(fields, values, strict=True))
    recipe = Recipe().model_dump()
    fields = {"precision": None} | {
        f"{part}.{name}": value
        for part, section in recipe.items()
        if isinstance(section, dict)
        for name, value in section.items()
    }
    assert told.keys() == fields.keys()
    for name, value in fields.items():
        if isinstance(value, bool | int | float | str):
            assert told[name].strip("`") == json.dumps(value).strip('"'), name


def test_every_verb_is_in_the_readme(cli: Cli) -> None:
    readme = (ROOT / "README.md").read_text()
    verbs = re.findall(r"^│ (\w+) ", cli("--help").out, re.MULTILINE)
    assert len(verbs) >= 8
    for verb in verbs:
        assert f"edgedeploy {verb}" in readme


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)", (ROOT / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
