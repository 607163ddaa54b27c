"""The client library: drive a Loadmaster service from Python.

>>> with Client("http://127.0.0.1:8288") as client:
...     client.load("smollm2-135m-instruct.q4_1", n_gpu_layers=12)
...     client.offload("smollm2-135m-instruct.q4_1", n_gpu_layers=24)["generation"]
2

Results are the JSON bodies that the README's routes table names, as dictionaries. Imports nothing of the service.
"""

from loadmaster.client import Client, Event, RequestFailed

__all__ = ["Client", "Event", "RequestFailed"]
