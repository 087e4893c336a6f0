"""Guards of the layout: models/, export/, calibration/ stand at the top, yet are imported as edgedeploy.*."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAPPED = ("models", "export", "calibration")
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def tracked() -> list[str]:
    """Files that git tracks, or everything in a tree without git."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    return listed.stdout.split("\n")[:-1]


def folder_of(package: str) -> Path:
    first, *rest = package.split(".")
    assert first == "edgedeploy"
    base = ROOT if rest and rest[0] in MAPPED else ROOT / "edgedeploy"
    return base.joinpath(*rest)


@pytest.mark.parametrize("name", MAPPED)
def test_links_are_relative_and_lead_to_the_top_folder(name: str) -> None:
    link = ROOT / "edgedeploy" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..", name)


def test_every_package_is_listed_and_every_listed_one_exists() -> None:
    found = set()
    for top in ("edgedeploy", *MAPPED):
        for init in (ROOT / top).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            if parts[0] == "edgedeploy" and len(parts) > 1 and parts[1] in MAPPED:
                continue  # seen again through the link
            found.add(".".join(parts if parts[0] == "edgedeploy" else ("edgedeploy", *parts)))
    assert found == set(SETUPTOOLS["packages"])
    for package, folder in SETUPTOOLS["package-dir"].items():
        assert folder_of(package) == ROOT / folder


def test_the_wheel_holds_exactly_the_package(tmp_path: Path) -> None:
    """Built from tracked files alone, with the links degraded to text as some checkouts leave them."""
    files = tracked()
    if not files:
        pytest.skip("not a git checkout")
    tree = tmp_path / "tree"
    for name in files:
        source, copy = ROOT / name, tree / name
        if source.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_symlink():
                copy.write_text(str(source.readlink()))
            else:
                shutil.copy2(source, copy)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(tree),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {name.split("/")[0].rsplit("-", 1)[0].split("-")[0] for name in names} == {"edgedeploy"}
    for needed in (
        "targets/x86-avx2.toml",
        "py.typed",
        "models/catalog.json",
        "models/zoo/espcn.py",
        "calibration/rules/tensorrt.toml",
    ):
        assert f"edgedeploy/{needed}" in names
    code = (
        "import edgedeploy.models.zoo.espcn, edgedeploy.core.target as t; "
        "t.load_target('cpu'); print(t.__file__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith(str(tmp_path / "site"))


@pytest.mark.parametrize("path", [Path(name) for name in tracked() if name.endswith(".py")], ids=str)
def test_no_file_is_long(path: Path) -> None:
    full = ROOT / path
    if full.is_file() and not full.is_symlink():
        assert len(full.read_text().splitlines()) <= 400


def test_no_tracked_file_holds_a_path_of_a_machine_or_a_large_blob() -> None:
    for name in tracked():
        path = ROOT / name
        if not path.is_file() or path.is_symlink():
            continue
        # The weights have a bound of their own, all together: tests/models/test_checkpoint.py.
        weights = name.startswith("models/weights/") and path.suffix == ".safetensors"
        assert weights or path.stat().st_size < 5_000_000, name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".txt", ".json"} and path != Path(__file__):
            text = path.read_text(encoding="utf-8")
            for start in ("/root" + "/", "/home" + "/", "/work" + "/"):
                assert start not in text, f"{name} names a path of a machine: {start}"
