"""What a TensorRT builder says: kept while it works, so that its own words can go into the error."""

from __future__ import annotations

import re
import sys
from typing import Any

from edgedeploy.core.errors import BuildError, UnsupportedOpError
from edgedeploy.runtime.onnx_file import OTHER_RUNTIMES

_LONGEST_MESSAGE = 600


def make_logger(sdk: Any, verbose: bool) -> Any:
    """An `ILogger` of this SDK that keeps (severity, text) in `.messages`; with `verbose` it prints them too.

    It is made here, not declared, because its base class is the SDK's. Keep it alive as long as what it
    logs for.
    """

    class KeepingLogger(sdk.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            sdk.ILogger.__init__(self)  # the binding's constructor has to be named: super() does not reach it
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
    """The error of a builder that answered None, with the errors that it logged, else its warnings."""
    for worst in (sdk.ILogger.ERROR, sdk.ILogger.WARNING):
        said = [message for severity, message in logger.messages if severity <= worst]
        if said:
            break
    else:
        said = ["it says nothing"]
    text = "; ".join(dict.fromkeys(" ".join(message.split()) for message in said))
    hint = (
        "give the builder more scratch memory" if "workspace" in text else "simplify the model and try again"
    )
    return BuildError(f"{backend} could not build {what}: {text[:_LONGEST_MESSAGE]}", hint)


def parser_error(sdk: Any, backend: str, parser: Any, logger: Any, what: str) -> BuildError:
    """The error of a parser that refused a model: which operator and node, and why."""
    for index in range(parser.num_errors):
        problem = parser.get_error(index)
        op, node, why = problem.node_operator(), problem.node_name(), " ".join(problem.desc().split())
        unsupported = problem.code() == sdk.ErrorCode.UNSUPPORTED_NODE or "Plugin not found" in why
        if unsupported:
            return UnsupportedOpError(op, node, backend, OTHER_RUNTIMES)
        if op:
            # The condition that failed, as C++: where it carries a sentence, that is what to show.
            sentence = re.search(r'"(.+)"', why)
            detail = (sentence[1] if sentence else why)[:_LONGEST_MESSAGE]
            return BuildError(f"{backend} refuses {op} (node '{node}') of {what}: {detail}", _hint(op))
    return build_error(sdk, backend, logger, what)


def _hint(op: str) -> str:
    if op in {"QuantizeLinear", "DequantizeLinear"}:
        return "quantize again with the TensorRT rules: edgedeploy quantize MODEL.onnx --data FOLDER"
    return OTHER_RUNTIMES
