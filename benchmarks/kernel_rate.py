"""How fast this CPU's INT8 convolutions are at their best: OpenVINO's, on layers of the size they like.

A network cannot take less time than its multiplications at that rate, whatever is done to its graph; the rest
of its time is what placement and passes can still win. `python -m benchmarks.kernel_rate` prints the rate.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedeploy.backends.openvino import _core

CHANNELS, SIZE, DEPTH = (64, 128, 256), (64, 48, 32), 4
ROUNDS, WARMUP = 100, 10


def network(channels: int, size: int) -> onnx.ModelProto:
    """DEPTH convolutions 3x3 in INT8, each with the ReLU and the requantization that real ones have."""
    rng = np.random.default_rng(0)
    constants = {"s": np.float32(0.02), "z": np.uint8(0), "ws": np.float32(0.001), "wz": np.int8(0)}
    nodes, x = [], "x"
    for i in range(DEPTH):
        constants[f"w{i}"] = rng.integers(-127, 128, (channels, channels, 3, 3), np.int8)
        nodes += [
            helper.make_node("QuantizeLinear", [x, "s", "z"], [f"q{i}"]),
            helper.make_node("DequantizeLinear", [f"q{i}", "s", "z"], [f"d{i}"]),
            helper.make_node("DequantizeLinear", [f"w{i}", "ws", "wz"], [f"v{i}"]),
            helper.make_node("Conv", [f"d{i}", f"v{i}"], [f"c{i}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        x = f"r{i}"
    shape = [1, channels, size, size]
    graph = helper.make_graph(
        nodes,
        "rate",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def best_rate(threads: int) -> float:
    """Multiply-accumulates a second of the fastest of the layers, by the median of its runs."""
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERF_COUNT": True,
    }
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        for channels, size in zip(CHANNELS, SIZE, strict=True):
            file = Path(folder) / "rate.onnx"
            onnx.save(network(channels, size), file)
            request = _core().compile_model(file, "CPU", config).create_infer_request()
            image = np.random.default_rng(0).random((1, channels, size, size), np.float32)
            times: dict[str, list[float]] = {}
            for turn in range(WARMUP + ROUNDS):
                request.infer([image])
                for entry in request.profiling_info:
                    if turn >= WARMUP and entry.node_type == "Convolution":
                        times.setdefault(entry.node_name, []).append(entry.real_time.total_seconds())
            work = channels * channels * 9 * size * size
            rates += [work / float(np.median(values)) for values in times.values()]
    return max(rates)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    rate = best_rate(parser.parse_args().threads)
    print(f"{rate / 1e9:.0f} thousand million multiply-accumulates a second")
