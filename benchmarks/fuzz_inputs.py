"""Damaged inputs of every kind that edgedeploy reads: valid samples, and ways to spoil them.

A kind is a folder of valid files, and the command that reads them. Files are spoilt byte by byte, and by what
they mean: fields of ONNX models and JSON documents, values of recipes.
"""

from __future__ import annotations

import hashlib
import json
import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from edgedeploy.demo.file_sinks import VideoSink
from edgedeploy.models.registry import create_model

Words = list[str]
WORDS = ("", "x", "../x", "\x1b[31m", "\N{SNOWMAN}" * 50, "a" * 4000, "%s", "-1", "NaN")
RECIPE = (
    b"experiment: super-resolution\nmodel: espcn_x2\nsteps: 1\nbatch: 1\n"
    b"optimizer: {name: soap, learning_rate: 0.003}\nschedule: {name: cosine, warmup: 500, final: 0.01}\n"
    b"ema: 0.999\nsettings: {scale: 2, folders: [photos], patch: 8, floor: 0.0001, shrink: [1.0, 0.8]}\n"
)
TENSOR = {"dtype": "float32", "layout": "NCHW"}
SIDECAR = {
    "schema": 1,
    "sha256": hashlib.sha256(b"engine" * 20).hexdigest(),
    "kind": "engine",
    "model": "m",
    "precision": "int8",
    "backend": "tensorrt",
    "target": "rtx-4090",
    "inputs": [{**TENSOR, "name": "x", "shape": [1, 3, 16, 16]}],
    "outputs": [{**TENSOR, "name": "y", "shape": [1, 4, 16, 16]}],
    "details": {},
}
NUMBERS = (0, 1, -1, 2, 255, 2**31 - 1, 2**31, -(2**31), 2**63 - 1, 10**9, -(10**18))


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        suffix: of the spoilt file.
        samples: valid files.
        commands: what reads such a file, given its path and a folder to write into.
        spoil: damages the meaning of a file's bytes; None where bytes alone are damaged.
    """

    suffix: str
    samples: Sequence[bytes]
    commands: Callable[[Path, Path], Sequence[Words]]
    spoil: Callable[[bytes, random.Random], bytes] | None = None


def spoil_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, set, cut, repeat, insert or exchange some bytes."""
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(spoilt)) if spoilt else 0
        size = rng.choice((1, 2, 4, 8, 64))
        action = rng.randrange(6)
        if action == 0 and spoilt:
            spoilt[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            spoilt[at : at + size] = rng.choice((b"\x00", b"\xff", b"\x7f", b"\x80")) * size
        elif action == 2 and len(spoilt) > 1:
            del spoilt[rng.randrange(1, len(spoilt)) :]
        elif action == 3:
            spoilt[at:at] = spoilt[at : at + size] * rng.choice((1, 3, 50))
        elif action == 4:
            spoilt[at:at] = rng.randbytes(size)
        elif spoilt:
            other = rng.randrange(len(spoilt))
            spoilt[at : at + size], spoilt[other : other + size] = (
                spoilt[other : other + size],
                spoilt[at : at + size],
            )
    return bytes(spoilt)


def spoil_fields(message: Any, rng: random.Random) -> None:
    """Change some fields of a protobuf message in place, at any depth."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        _spoil_field(message, rng)


def _spoil_field(message: Any, rng: random.Random) -> None:
    fields = [field for field, _ in message.ListFields()]
    if not fields:
        return
    field = rng.choice(fields)
    value = getattr(message, field.name)
    repeated = not isinstance(value, (int, float, str, bytes)) and hasattr(value, "append")
    if repeated and rng.random() < 0.3:
        index = rng.randrange(len(value))
        if rng.random() < 0.5:
            del value[index]
        elif hasattr(value, "add"):
            value.add().CopyFrom(value[index])
        else:
            value.append(value[index])
    elif field.message_type is not None:
        _spoil_field(rng.choice(value) if repeated else value, rng)
    elif repeated:
        value[rng.randrange(len(value))] = _other(value[0], rng)
    elif rng.random() < 0.2:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _other(value, rng))


def _other(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        number = rng.choice((*NUMBERS, value + 1, value - 1, value * 2))
        return number if abs(number) < 2**31 else rng.choice((0, 1, 2**31 - 1))
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    if isinstance(value, bytes):
        return spoil_bytes(value, rng) if value else b"x"
    return rng.choice((*WORDS, value + "x", value[:-1]))


def spoil_onnx(data: bytes, rng: random.Random) -> bytes:
    """Change fields of a model; numbers that a field does not take are left as they were."""
    model = onnx.load_from_string(data)
    try:
        spoil_fields(model, rng)
    except (ValueError, TypeError):
        return spoil_bytes(data, rng)
    return bytes(model.SerializeToString())


def spoil_json(data: bytes, rng: random.Random) -> bytes:
    """Change, remove or add one value of a JSON document, at any depth."""
    document = json.loads(data)
    here, path = document, []
    while isinstance(here, (dict, list)) and here and (not path or rng.random() < 0.7):
        key = rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
        path.append((here, key))
        here = here[key]
    holder, key = path[-1]
    values: tuple[Any, ...] = (None, True, [], {}, "", 1e400, *NUMBERS, *WORDS, [[]] * 9)
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(values)
    return json.dumps(document).encode(errors="surrogatepass")


def random_edit(rng: random.Random) -> str:
    """An argument of --set, now and then one that nobody would write."""
    keys = (
        "calibration.method", "calibration.limit", "optimize.skip", "capture.opset", "guard.seconds",
        "task.options.scale", "precision", "a.b.c", "", ".", "calibration", "calibration.options.x",
    )  # fmt: skip
    values = (
        *WORDS, *map(str, NUMBERS), "[" * 20_000, "9" * 5000, "{}", "null", '["a"]', "1e999", "\ud800",
    )  # fmt: skip
    text = rng.choice(keys) + rng.choice(("=", "", "==")) + rng.choice(values)
    if rng.random() < 0.3:
        text += "".join(rng.choices(string.printable, k=rng.randrange(30)))
    return text.replace("\x00", "")


class Samples:
    """Valid files of every kind in a folder, and the commands that read such files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.model, self.engine = folder, folder / "sound.onnx", folder / "model.engine"
        onnx.save(_network(), self.model)
        onnx.save(_quantized(), folder / "quantized.onnx")
        self.engine.write_bytes(b"engine" * 20)
        rows = {"x": np.random.default_rng(0).random((4, 3, 16, 16)).astype(np.float32)}
        np.savez_compressed(folder / "rows.npz", x=rows["x"])
        np.savez(folder / "plain.npz", x=rows["x"])
        np.save(folder / "rows.npy", rows["x"])
        state = create_model("espcn_x2").state_dict()
        torch.save(state, folder / "weights.pth")
        save_file(state, folder / "weights.safetensors")
        self.picture = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
        (folder / "photos").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "photos" / "a.png"), self.picture)
        sink = VideoSink(folder / "clip.mp4", 25)
        for index in range(4):
            sink.write(np.roll(self.picture, 3 * index, 0), index / 25, "")
        sink.finish()

    def kinds(self) -> dict[str, Kind]:
        """Every kind by name."""
        suffixes = (".png", ".jpg", ".bmp", ".tiff", ".webp")
        images = [cv2.imencode(suffix, self.picture)[1].tobytes() for suffix in suffixes]
        return {
            "onnx": Kind(".onnx", self._read("sound.onnx", "quantized.onnx"), self._of_model, spoil_onnx),
            "npz": Kind(".npz", self._read("rows.npz", "plain.npz"), self._of_data),
            "npy": Kind(".npy", self._read("rows.npy"), self._of_data),
            "image": Kind(".png", images, self._of_pictures),
            "clip": Kind(".mp4", self._read("clip.mp4"), self._of_pictures),
            "pth": Kind(".pth", self._read("weights.pth"), self._of_weights),
            "safetensors": Kind(".safetensors", self._read("weights.safetensors"), self._of_weights),
            "sidecar": Kind(".json", [json.dumps(SIDECAR).encode()], self._of_sidecar, spoil_json),
            "recipe": Kind(".yaml", [RECIPE], self._of_recipe),
            "set": Kind(".txt", [bytes(range(16))], self._of_edit),
        }

    def _read(self, *names: str) -> list[bytes]:
        return [(self.folder / name).read_bytes() for name in names]

    def _of_model(self, path: Path, out: Path) -> list[Words]:
        return [
            ["optimize", str(path), "-o", str(out / "o.onnx")],
            ["quantize", str(path), "--random-data", "2", "-o", str(out / "q.onnx")],
            ["lint", str(path), "--for", "openvino"],
            ["build", str(path), "--target", "cpu", "-o", str(out / "b.onnx")],
            ["bench", str(path), "--runs", "3"],
        ]

    def _of_data(self, path: Path, out: Path) -> list[Words]:
        return [["quantize", str(self.model), "--data", str(path), "--limit", "4", "-o", str(out / "q.onnx")]]

    def _of_pictures(self, path: Path, out: Path) -> list[Words]:
        demo = ["demo", str(self.model), "--source", str(path), "--sink", str(out / f"d{path.suffix}")]
        return [*self._of_data(path, out), demo]

    def _of_weights(self, path: Path, out: Path) -> list[Words]:
        return [["export", "espcn_x2", "--weights", str(path), "--size", "16x16", "-o", str(out / "e.onnx")]]

    def _of_sidecar(self, path: Path, out: Path) -> list[Words]:
        engine = out / "model.engine"
        engine.write_bytes(self.engine.read_bytes())
        path.replace(out / "model.engine.json")
        clip = str(self.folder / "clip.mp4")
        return [["bench", str(engine)], ["demo", str(engine), "--source", clip, "--sink", "null"]]

    def _of_edit(self, path: Path, out: Path) -> list[Words]:
        edit = random_edit(random.Random(path.read_bytes()))  # noqa: S311  # not a secret
        command = ["quantize", str(self.model), "--random-data", "2", "-o", str(out / "q.onnx")]
        return [[*command, "--set", edit]]

    def _of_recipe(self, path: Path, out: Path) -> list[Words]:
        data = str(self.folder)
        return [["train", str(path), "--data", data, "-o", str(out / "run"), "--set", "steps=1"]]


def _network() -> onnx.ModelProto:
    """Two convolutions with a residual, a Resize and a Concat."""
    rng = np.random.default_rng(1)
    weights = {
        "w0": rng.standard_normal((8, 3, 3, 3)),
        "b0": rng.standard_normal(8),
        "w1": rng.standard_normal((8, 8, 3, 3)),
        "scales": np.array([1, 1, 2, 2]),
    }
    initializers = [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()]
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["a"], "first", **pads),
        helper.make_node("Relu", ["a"], ["r"], "second"),
        helper.make_node("Conv", ["r", "w1"], ["c"], "third", **pads),
        helper.make_node("Add", ["c", "r"], ["s"], "fourth"),
        helper.make_node("Concat", ["s", "r"], ["j"], "fifth", axis=1),
        helper.make_node("Resize", ["j", "", "scales"], ["y"], "sixth", mode="nearest"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 32, 32])
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _quantized() -> onnx.ModelProto:
    """One convolution between Q/DQ pairs, its weight as codes."""
    rng = np.random.default_rng(2)
    constants = {
        "s": np.float32(0.05), "z": np.uint8(110), "ws": rng.random(8).astype(np.float32) + 0.01,
        "wz": np.zeros(8, np.int8), "W": rng.integers(-127, 127, (8, 3, 3, 3)).astype(np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantize"),
        helper.make_node("DequantizeLinear", ["W", "ws", "wz"], ["w"], "weight", axis=0),
        helper.make_node("Conv", ["d", "w"], ["y"], "conv", pads=[1, 1, 1, 1]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 16, 16])
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
