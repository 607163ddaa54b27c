"""Loadmaster, the service: loads, places and rebalances GGUF weights across host memory and GPUs, while in use."""

__version__ = "0.1.0"
