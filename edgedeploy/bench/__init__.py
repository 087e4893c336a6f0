"""Latency, throughput and memory of artifacts, side by side; `edgedeploy.bench(...)` calls the verb."""

from edgedeploy.bench.artifacts import bench
from edgedeploy.bench.budget import Budget, parse_budgets
from edgedeploy.bench.machine import describe_machine
from edgedeploy.bench.measure import BenchResult, Rounds, time_interleaved
from edgedeploy.bench.report import BenchReport
from edgedeploy.core.callable_package import make_callable

__all__ = [
    "BenchReport",
    "BenchResult",
    "Budget",
    "Rounds",
    "bench",
    "describe_machine",
    "parse_budgets",
    "time_interleaved",
]

make_callable(__name__)
