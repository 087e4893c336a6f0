"""`edgedeploy doctor`: what works on this machine, and what to install for the rest."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any

import typer

from edgedeploy.cli.console import print_json, print_next, print_table
from edgedeploy.cli.options import Json
from edgedeploy.core.errors import EdgeDeployError, MissingDependencyError
from edgedeploy.core.extras import EXPORT, ONNX, TRAIN
from edgedeploy.core.installed import installed_version

ABILITIES = {
    "export models": tuple(EXPORT),
    "deploy .onnx files": tuple(ONNX),
    "quantize": (*ONNX, "cv2"),
    "read and write video": ("av", "cv2"),
    "train": tuple(TRAIN),
}
RIVALS = (("onnxruntime", "onnxruntime-gpu"), ("opencv-python", "opencv-python-headless"))
EXTRAS = {
    "export models": "export",
    "deploy .onnx files": "onnx",
    "quantize": "onnx,cpu",
    "read and write video": "demo,cpu",
    "train": "train",
}


def command(
    target: Annotated[str | None, typer.Option(help="Look at what this target needs only.")] = None,
    json: Json = False,
) -> None:
    from edgedeploy.backends import BACKENDS
    from edgedeploy.bench.machine import describe_machine
    from edgedeploy.core.target import load_target

    wanted = load_target(target).backends if target else tuple(BACKENDS.names())
    backends = [_backend(name) for name in wanted]
    abilities = [_ability(name, modules) for name, modules in ABILITIES.items()]
    problems = _problems()
    machine = describe_machine()
    cpu = _cpu()
    if json:
        print_json(
            {
                "machine": machine,
                "cpu": cpu,
                "backends": backends,
                "abilities": abilities,
                "problems": problems,
            }
        )
    else:
        print_table(("machine", ""), machine.items())
        typer.echo(f"CPU class {cpu['class']}: {cpu['int8']}" if cpu["class"] else cpu["int8"])
        columns = ("backend", "works", "version", "what to do")
        print_table(columns, [(b["name"], _mark(b["works"]), b["version"], b["fix"]) for b in backends])
        print_table(
            ("to", "works", "what to do"), [(a["name"], _mark(a["works"]), a["fix"]) for a in abilities]
        )
        for problem in problems:
            typer.echo(f"problem: {problem}", err=True)
        print_next("edgedeploy models")
    if target and not any(backend["works"] for backend in backends):
        first = backends[0]
        raise MissingDependencyError(
            f"nothing here can build or run for {target}: {first['why']}", first["fix"]
        )


def _backend(name: str) -> dict[str, Any]:
    from edgedeploy.backends import BACKENDS

    backend = BACKENDS.get(name)
    why = backend.why_not()
    try:
        found = "" if why else backend.version()
    except (EdgeDeployError, ImportError, OSError) as error:  # installed, but its libraries do not load here
        why, found = f"does not load: {error}", ""
    fix = backend.install_hint() if why else ""
    return {"name": name, "works": not why, "version": found, "why": why, "fix": fix}


def _cpu() -> dict[str, str]:
    """The class of this CPU, and what it means for INT8."""
    from edgedeploy.core.target import THIS_CPU, load_target

    try:
        target = load_target(THIS_CPU)
    except EdgeDeployError as error:
        return {"class": "", "int8": str(error)}
    return {"class": target.cpu_class, "int8": target.cpu.int8 if target.cpu else ""}


def _ability(name: str, modules: tuple[str, ...]) -> dict[str, Any]:
    missing = [module for module in modules if find_spec(module) is None]
    fix = f'pip install "edgedeploy[{EXTRAS[name]}]"' if missing else ""
    return {"name": name, "works": not missing, "missing": missing, "fix": fix}


def _problems() -> list[str]:
    """Combinations of packages that are known to break each other."""
    problems = [
        f"{one} and {other} overwrite each other's files: pip uninstall both, then install one"
        for one, other in RIVALS
        if installed_version(one) and installed_version(other)
    ]
    if find_spec("cv2"):
        try:
            import cv2  # noqa: F401
        except ImportError as error:
            problems.append(
                f"OpenCV does not load ({error}): apt install libgl1, or use opencv-python-headless"
            )
    return problems


def _mark(works: bool) -> str:
    return "yes" if works else "no"
