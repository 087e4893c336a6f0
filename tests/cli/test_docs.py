"""What the documents promise: their commands run, their links lead somewhere."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
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


def blocks(document: str, language: str) -> list[str]:
    """The code of a document's blocks in one language (or several, as `python|sh`), in order."""
    text = (ROOT / document).read_text()
    return [code for _, code in re.findall(rf"```({language})\n(.*?)```", text, re.DOTALL)]


def words_of(code: str) -> list[list[str]]:
    """The `edgedeploy` lines of a block, as words after `edgedeploy`."""
    lines = code.replace("\\\n", "").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("edgedeploy ")]


def commands(document: str) -> list[list[str]]:
    """The `edgedeploy` lines of a document's sh blocks, in order, as words."""
    return [words for code in blocks(document, "sh") for words in words_of(code)]


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


def run(cli: Cli, lines: list[list[str]], width: int = 640) -> None:
    """Run commands that have to succeed, shortened by SHORTER and, on small pictures, by SMALLER."""
    for words in lines:
        more = SMALLER.get(tuple(words[:2]), ()) if width < 640 else ()
        outcome = cli(*words, *SHORTER.get(tuple(words[:2]), ()), *more)
        assert outcome.code == 0, f"{words}: {outcome.err}"


@pytest.mark.parametrize("width", [160, pytest.param(640, marks=pytest.mark.slow)], indirect=True)
def test_readme_commands_run_in_order(cli: Cli, desk: Path, width: int) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    lines = commands("README.md")
    assert [words[0] for words in lines] == [
        "doctor", "models", "export", "optimize", "build", "build",
        "quantize", "lint", "eval", "bench", "demo",
    ]  # fmt: skip
    run(cli, lines, width)
    files = "folded.onnx espcn_x3.cpu.onnx espcn_x3.engine espcn_x3.int8.onnx upscaled.mp4"
    for made in files.split():
        assert (desk / made).stat().st_size > 0


@pytest.mark.parametrize("width", [160, pytest.param(640, marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize(
    ("page", "made"),
    [("docs/training.md", "run/last.safetensors"), ("docs/stdo.md", "restored.mp4")],
)
def test_first_commands_of_a_page_run(cli: Cli, desk: Path, width: int, page: str, made: str) -> None:
    lines = words_of(blocks(page, "sh")[0])
    assert lines
    run(cli, lines, width)
    assert (desk / made).stat().st_size > 0


def test_the_tutorial_runs(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "net", raising=False)
    for code in blocks("docs/tutorial.md", "python|sh"):
        name = re.match(r"# (\w+\.py)\n", code)
        if name:
            Path(name[1]).write_text(code)
            continue
        for line in code.splitlines():
            if line.startswith("python "):
                runpy.run_path(line.removeprefix("python "))
            else:
                run(cli, words_of(line))
    scores = json.loads(cli("eval", "net.onnx", "net.cpu.onnx", "--data", "shapes/val", "--json").out)
    assert min(score["metrics"]["top1"] for score in scores) > 0.9
    for made in ("why.md", "net.int8.onnx", "net.engine", "net.engine.json", "answers"):
        assert Path(made).exists()


@pytest.mark.parametrize("width", [160], indirect=True)
def test_calibration_commands_run(cli: Cli, desk: Path) -> None:
    save_wide(desk / "model.onnx")
    lines = commands("docs/calibration.md")
    assert len(lines) >= 4
    run(cli, lines)


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


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index


def test_pictures_are_shown_and_small() -> None:
    pictures = [path for path in (ROOT / "docs/pictures").iterdir() if path.suffix != ".md"]
    assert sum(path.stat().st_size for path in pictures) <= 300_000
    readme, sources = (ROOT / "README.md").read_text(), (ROOT / "docs/pictures/README.md").read_text()
    for path in pictures:
        assert f"docs/pictures/{path.name}" in readme
        assert path.name in sources, "its source and license"
