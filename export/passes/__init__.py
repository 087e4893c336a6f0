"""Graph passes, one rewrite a file; see `edgedeploy.export.graph_pass` for the contract."""

from edgedeploy.export.graph_pass import PASSES, GraphPass, Skip, graph_pass

__all__ = ["PASSES", "GraphPass", "Skip", "graph_pass"]
