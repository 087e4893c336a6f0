"""edgedeploy: efficient vision models from PyTorch to real time on the device, proved at every step."""

__version__ = "0.1.0"
