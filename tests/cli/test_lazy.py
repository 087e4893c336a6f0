"""Help is instant, and what runs on a device loads neither torch nor onnx."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import command, modules_after

HEAVY = ("torch", "onnx", "onnx_graphsurgeon", "onnxscript", "onnxruntime", "openvino", "cv2", "av", "numpy")


@pytest.mark.parametrize("words", [("--help",), ("build", "--help"), ("--version",), ("models",)])
def test_help_and_lists_load_nothing_heavy(words: tuple[str, ...], tmp_path: Path) -> None:
    assert not modules_after(command(*words), tmp_path) & set(HEAVY)


@pytest.mark.parametrize("code", ["import edgedeploy", "import edgedeploy.export, edgedeploy.core.recipe"])
def test_the_package_itself_loads_nothing_heavy(code: str, tmp_path: Path) -> None:
    assert not modules_after(code, tmp_path) & set(HEAVY)


def test_the_functions_of_the_package_load_neither_torch_nor_onnx(tmp_path: Path) -> None:
    loaded = modules_after(
        "import edgedeploy; edgedeploy.optimize, edgedeploy.build, edgedeploy.load", tmp_path
    )
    assert not loaded & (set(HEAVY) - {"numpy"})


def test_bench_and_demo_of_a_built_artifact_load_neither_torch_nor_onnx(relu: Path) -> None:
    built = relu.with_name("built.onnx")
    loaded = modules_after(command("build", relu, "-o", built), relu.parent)
    assert not loaded & {"torch", "onnxscript"}  # an ONNX file is deployed without
    loaded = modules_after(command("bench", built, "--runs", 3), relu.parent)
    assert not loaded & {"torch", "onnx", "onnx_graphsurgeon", "onnxscript"}
    assert loaded & {"onnxruntime", "openvino"}  # else nothing was run and the test proves nothing
    image = relu.with_name("image.png")
    modules_after(
        f"import cv2, numpy; cv2.imwrite({str(image)!r}, numpy.zeros((8, 8, 3), numpy.uint8))", relu.parent
    )
    loaded = modules_after(command("demo", built, "--source", image, "--sink", "null"), relu.parent)
    assert not loaded & {"torch", "onnx", "onnx_graphsurgeon", "onnxscript"}
    assert loaded & {"onnxruntime", "openvino"}
