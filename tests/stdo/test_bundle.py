"""What a client reads is checked before it is trusted: manifests, chunk maps, files, models."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.core.errors import ArtifactError
from edgedeploy.core.spec import METADATA_KEY
from edgedeploy.stdo.bundle import open_bundle, stored_file, unpack_chunks, write_chunks
from edgedeploy.stdo.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, read_manifest, write_manifest
from tests.support.demo_tools import nearest_model
from tests.support.stdo_tools import make_bundle

Edit = Callable[[dict[str, Any]], object]


def put(*path: Any) -> Edit:
    """An edit that sets the value at a path of the document."""
    *parents, leaf, value = path

    def edit(document: Any) -> None:
        for parent in parents:
            document = document[parent]
        document[leaf] = value

    return edit


HOSTILE: dict[str, tuple[Edit, str]] = {
    "a parent folder": (put("video", "file", "../low.mp4"), "video.file"),
    "an absolute path": (put("models", 0, "file", "/etc/passwd"), "models.0.file"),
    "another drive": (put("models", 0, "file", "C:x.onnx"), "models.0.file"),
    "a hidden file": (put("video", "file", ".low.mp4"), "video.file"),
    "a later version": (put("version", 2), "version 2.*reads 1"),
    "no version": (lambda document: document.pop("version"), "version"),
    "an unknown field": (put("run", "rm"), "run"),
    "a huge frame": (put("width", 1 << 20), "width"),
    "no frames": (put("frames", 0), "frames"),
    "too many patches": (put("frames", 1 << 24), "patches"),
    "a number as text": (put("frames", "2"), "frames"),
    "a huge model": (put("models", 0, "bytes", 1 << 40), "models.0.bytes"),
    "a size that does not cover": (put("height", 100), "does not cover"),
    "a wide halo": (put("halo", 10_000), "halo"),
    "a patch beyond the frame": (put("patch_height", 1000), "larger than the frame"),
    "no models": (put("models", []), "models"),
    "models without a map": (put("chunks", None), "chunk map"),
    "one file twice": (lambda d: put("models", 1, "file", d["models"][0]["file"])(d), "one name"),
    "the manifest as a file": (put("chunks", "file", "Manifest.json"), "one name"),
    "an engine": (put("models", 0, "file", "chunk00.engine"), "onnx"),
    "no number": (put("fps", float("nan")), "fps"),
    "an infinite PSNR": (put("psnr", "result", float("inf")), "psnr.result"),
    "a list": (lambda document: document.clear(), "version"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("stdo") / "bundle", models=2)


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def test_a_bundle_comes_back_as_it_was_written(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.manifest == read_manifest(bundle)
    assert isinstance(opened.manifest, Manifest)
    assert opened.chunks.shape == (opened.manifest.frames, opened.manifest.grid.grid.count)
    assert set(opened.chunks.flat) == {0, 1}
    assert [model.path.name for model in opened.models] == ["chunk00.onnx", "chunk01.onnx"]
    assert opened.total_bytes == sum(path.stat().st_size for path in bundle.iterdir())
    again = bundle.with_name("again")
    write_manifest(again, opened.manifest)
    assert (again / MANIFEST).read_bytes() == (bundle / MANIFEST).read_bytes()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused(bundle: Path, name: str) -> None:
    edit, message = HOSTILE[name]
    document = json.loads((bundle / MANIFEST).read_text())
    edit(document)
    (bundle / MANIFEST).write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=message):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '{"version": 1', "[" * 100_000, "\x00", '{"version": true}']
)
def test_what_is_no_manifest_is_refused(bundle: Path, text: str) -> None:
    (bundle / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError):
        open_bundle(bundle)


def test_a_cut_manifest_is_refused_at_every_length(bundle: Path) -> None:
    data = (bundle / MANIFEST).read_bytes().rstrip()
    for length in range(0, len(data), 37):
        (bundle / MANIFEST).write_bytes(data[:length])
        with pytest.raises(ArtifactError):
            read_manifest(bundle)


def test_a_huge_manifest_is_not_parsed(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(text + " " * MAX_MANIFEST_BYTES)  # blanks alone: it would parse
    with pytest.raises(ArtifactError, match="larger than"):
        open_bundle(bundle)


@pytest.mark.parametrize("file", ["low.mp4", "chunk01.onnx", "chunks.bin"])
def test_changed_missing_and_linked_files_are_refused(bundle: Path, file: str) -> None:
    path = bundle / file
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="is not the file"):
        open_bundle(bundle)
    path.write_bytes(data + b"\0")
    with pytest.raises(ArtifactError, match=r"has \d+ bytes"):
        open_bundle(bundle)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"lacks {file}"):
        open_bundle(bundle)
    elsewhere = bundle.parent / "elsewhere"
    elsewhere.write_bytes(data)
    path.symlink_to(elsewhere)
    with pytest.raises(ArtifactError, match=f"lacks {file}"):
        open_bundle(bundle)


def replace(bundle: Path, file: str) -> None:
    """Let the manifest describe the file as it is now."""
    document = json.loads((bundle / MANIFEST).read_text())
    for entry in (*document["models"], document["chunks"]):
        if entry["file"] == file:
            entry |= stored_file(bundle / file).model_dump()
    (bundle / MANIFEST).write_text(json.dumps(document))


def test_models_that_are_no_rgb_networks_are_refused(bundle: Path) -> None:
    nearest_model(bundle / "chunk00.onnx")  # luma
    replace(bundle, "chunk00.onnx")
    with pytest.raises(ArtifactError, match="does not enlarge RGB"):
        open_bundle(bundle)


def test_a_model_with_weights_outside_is_refused(bundle: Path) -> None:
    model = onnx.load(bundle / "chunk00.onnx")
    onnx.save_model(
        model, bundle / "chunk00.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    replace(bundle, "chunk00.onnx")
    with pytest.raises(ArtifactError, match="self-contained"):
        open_bundle(bundle)


def test_a_sidecar_does_not_make_an_engine_of_a_model(bundle: Path) -> None:
    (bundle / "chunk00.onnx.json").write_text("{}")
    with pytest.raises(ArtifactError, match="self-contained"):
        open_bundle(bundle)


def test_a_model_of_another_scale_is_refused(bundle: Path) -> None:
    model = onnx.load(bundle / "chunk00.onnx")
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = entry.value.replace('"scale":2', '"scale":3')
    onnx.save(model, bundle / "chunk00.onnx")
    replace(bundle, "chunk00.onnx")
    with pytest.raises(ArtifactError, match="enlarge"):
        open_bundle(bundle)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 64), st.integers(0, 2**32 - 1))
def test_chunk_maps_come_back(
    tmp_path_factory: pytest.TempPathFactory, frames: int, patches: int, models: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("map") / "chunks.bin"
    chunks = np.random.default_rng(seed).integers(0, models, (frames, patches)).astype(np.uint8)
    write_chunks(path, chunks)
    np.testing.assert_array_equal(unpack_chunks(path.read_bytes(), frames, patches, models), chunks)
    if chunks.max():
        with pytest.raises(ArtifactError, match="names model"):
            unpack_chunks(path.read_bytes(), frames, patches, int(chunks.max()))


def test_a_chunk_map_that_does_not_fit_is_refused() -> None:
    good = zlib.compress(bytes(20))
    for data in (b"", b"nothing", good[:-3], zlib.compress(bytes(19)), zlib.compress(bytes(1 << 24))):
        with pytest.raises(ArtifactError):
            unpack_chunks(data, 4, 5, 2)
    assert unpack_chunks(good, 4, 5, 2).shape == (4, 5)
