"""The steps of a deployment, one a file; `edgedeploy.pipeline` knows their order."""
