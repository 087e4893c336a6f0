"""The log of a TensorRT builder, kept so that errors can quote it."""

from __future__ import annotations

import re
import sys
from typing import Any

from edgedeploy.core.errors import BuildError, UnsupportedOpError
from edgedeploy.runtime.onnx_file import OTHER_RUNTIMES

_LONGEST_MESSAGE = 600


def make_logger(sdk: Any, verbose: bool) -> Any:
    """An `ILogger` of this SDK that keeps (severity, text) in `.messages`; with `verbose` it also prints.

    The class is local because its base class belongs to the SDK. The logger must outlive its users.
    """

    class KeepingLogger(sdk.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            sdk.ILogger.__init__(self)  # super() does not reach the binding's constructor
            self.messages: list[tuple[Any, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append((severity, message))
            if verbose and severity <= sdk.ILogger.INFO:
                sys.stderr.write(f"{severity.name.lower()}: {message}\n")

    return KeepingLogger()


def texts(logger: Any) -> list[str]:
    """All messages, oldest first."""
    return [message for _, message in logger.messages]


def build_error(sdk: Any, backend: str, logger: Any, what: str) -> BuildError:
    """The error of a builder that returned None, with its logged errors, else its warnings."""
    for least in (sdk.ILogger.ERROR, sdk.ILogger.WARNING):
        messages = [message for severity, message in logger.messages if severity <= least]
        if messages:
            break
    text = "; ".join(dict.fromkeys(" ".join(message.split()) for message in messages or ["no message"]))
    hint = (
        "give the builder more scratch memory" if "workspace" in text else "simplify the model and try again"
    )
    return BuildError(f"{backend} could not build {what}: {text[:_LONGEST_MESSAGE]}", hint)


def parser_error(sdk: Any, backend: str, parser: Any, logger: Any, what: str) -> BuildError:
    """The error of a parser that refused a model, with operator, node and reason."""
    for index in range(parser.num_errors):
        problem = parser.get_error(index)
        op, node, why = problem.node_operator(), problem.node_name(), " ".join(problem.desc().split())
        unsupported = problem.code() == sdk.ErrorCode.UNSUPPORTED_NODE or "Plugin not found" in why
        if unsupported:
            return UnsupportedOpError(op, node, backend, OTHER_RUNTIMES)
        if op:
            # The reason is the failed C++ condition: show the sentence that it may contain.
            sentence = re.search(r'"(.+)"', why)
            detail = (sentence[1] if sentence else why)[:_LONGEST_MESSAGE]
            return BuildError(f"{backend} refuses {op} (node '{node}') of {what}: {detail}", _hint(op))
    return build_error(sdk, backend, logger, what)


def _hint(op: str) -> str:
    if op in {"QuantizeLinear", "DequantizeLinear"}:
        return "quantize again with the TensorRT rules: edgedeploy quantize MODEL.onnx --data FOLDER"
    return OTHER_RUNTIMES
