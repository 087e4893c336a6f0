"""Graph passes, one rewrite a file; see `edgedeploy.export.passes.base` for the contract."""

from edgedeploy.export.passes.base import PASSES, GraphPass, Skip, graph_pass

__all__ = ["PASSES", "GraphPass", "Skip", "graph_pass"]
