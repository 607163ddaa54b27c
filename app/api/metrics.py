"""Prometheus's view: memory, jobs and requests, as gauges, counters and histograms made anew for each scrape.

Labels have few values: what clients send is none of them, and of models only those that are loaded have series.
"""

import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app import __version__
from app.api.errors import CODE, codes
from app.api.traffic import Traffic
from app.placement import HOST
from app.residency import Loadmaster
from app.residency.records import Cause, DeviceMemoryRecord, JobKind, JobState, MemoryRecord, ModelState
from app.residency.tally import Histogram

DEVICE: Final = ("device", "uuid", "kind")
DEVICE_BYTES: Final = {
    "total": "What the driver reports as the device's memory.",
    "free": "What the driver reports as free.",
    "others": "What other processes hold, and the driver itself.",
    "limit": "What of the device may be ours.",
    "used": "Slabs of current placements.",
    "weights": "Tensor bytes in current placements.",
    "padding": "Used bytes that hold no tensor.",
    "reserved": "Promised to jobs, or being filled.",
    "retired": "Replaced, but still held by readers.",
}
HOST_BYTES: Final = {
    "total": "The host's memory.",
    "available": "What the system says can be had without swapping.",
    "limit": "What buffered copies may take of the host.",
    "mapped": "Bytes of loaded models' files that are mapped.",
    "resident": "Bytes of loaded models' files that are in the page cache.",
    "locked": "Bytes of loaded models' files that are locked into memory.",
    "buffered": "Copies of weights in the host's memory.",
    "staging": "Pinned for bytes on their way to devices.",
}
ENDS: Final = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class _Memory(Collector):
    """What is where."""

    def __init__(self, loadmaster: Loadmaster) -> None:
        self._loadmaster = loadmaster

    def collect(self) -> Iterator[Metric]:
        memory = self._loadmaster.memory.record()
        for column, text in DEVICE_BYTES.items():
            values = ((_device(device), getattr(device, f"{column}_bytes")) for device in memory.devices)
            yield _gauge(f"loadmaster_device_{column}_bytes", text, DEVICE, values)
        lost = ((_device(device), float(device.lost is not None)) for device in memory.devices)
        yield _gauge("loadmaster_device_lost", "1 where the device can do nothing any more.", DEVICE, lost)
        for column, text in HOST_BYTES.items():
            value = getattr(memory.host, f"{column}_bytes")
            yield _gauge(f"loadmaster_host_{column}_bytes", text, (), [((), value)])
        yield self._held(memory)

    def _held(self, memory: MemoryRecord) -> Metric:
        places = {device.id: _device(device) for device in memory.devices}
        places[HOST] = (HOST, "", self._loadmaster.devices[HOST].kind)
        values = (((model.id, *places[id_]), size) for model in memory.models for id_, size in model.devices.items())
        text = "Tensor bytes of loaded models, by device; the host's are the file's pages, or a copy."
        return _gauge("loadmaster_model_bytes", text, ("model", *DEVICE), values)


class _Work(Collector):
    """What is done, and what has been."""

    def __init__(self, loadmaster: Loadmaster) -> None:
        self._loadmaster = loadmaster

    def collect(self) -> Iterator[Metric]:
        states = Counter(record.state for record in self._loadmaster.library.records())
        models = (((state,), states[state]) for state in ModelState)
        yield _gauge("loadmaster_models", "Models by state.", ("state",), models)
        restoring = [((), float(self._loadmaster.restoring))]
        yield _gauge("loadmaster_restoring", "1 while models of an earlier process are being loaded.", (), restoring)
        listeners = [((), self._loadmaster.broadcast.listeners)]
        yield _gauge("loadmaster_event_listeners", "Readers of event streams.", (), listeners)
        yield from self._running()
        yield from self._ended()

    def _running(self) -> Iterator[Metric]:
        jobs = [job.record() for job in self._loadmaster.jobs.running()]
        count = Counter((job.kind, job.state) for job in jobs)
        now = (((k, s), count[k, s]) for k in JobKind for s in (JobState.QUEUED, JobState.RUNNING))
        yield _gauge("loadmaster_jobs_active", "Jobs that have not ended.", ("kind", "state"), now)
        rate = sum(job.bytes_per_second or 0.0 for job in jobs if job.kind is not JobKind.VERIFY)
        text = "Bytes per second on their way to devices, over the last two seconds."
        yield _gauge("loadmaster_copy_bytes_per_second", text, (), [((), rate)])
        copied = self._loadmaster.jobs.copied_bytes
        yield _counter("loadmaster_copied_bytes", "Bytes copied to devices.", (), [((), copied)])

    def _ended(self) -> Iterator[Metric]:
        tally = self._loadmaster.jobs.tally
        by_end: Counter[tuple[JobKind, JobState]] = Counter()
        by_cause: Counter[tuple[Cause, JobState]] = Counter()
        for (kind, cause, end), count in tally.ended.items():
            by_end[kind, end] += count
            by_cause[cause, end] += count
        ended = (((kind, end), by_end[kind, end]) for kind in JobKind for end in ENDS)
        yield _counter("loadmaster_jobs", "Jobs that have ended.", ("kind", "state"), ended)
        failures = (((code,), tally.failures[code]) for code in codes())
        yield _counter("loadmaster_job_failures", "Jobs that have failed, by their error.", ("code",), failures)
        for cause, name, text in (
            (Cause.EVICTION, "evictions", "Idle models that made room for another, whole or by layers."),
            (Cause.IDLENESS, "expirations", "Models that were unloaded for want of use."),
            (Cause.RESTART, "restores", "Loads of what an earlier process had."),
        ):
            ends = (((end,), by_cause[cause, end]) for end in ENDS)
            yield _counter(f"loadmaster_{name}", text, ("state",), ends)
        text = "How long jobs ran; what they waited for first does not count."
        yield _histogram("loadmaster_job_duration_seconds", text, ("kind", "state"), tally.seconds.items())


class _Traffic(Collector):
    """What was asked, and how it was answered."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def collect(self) -> Iterator[Metric]:
        text = "From a request to the head of its answer, by the route's template; streams go on after it."
        labels = ("method", "route", "status")
        yield _histogram("loadmaster_http_request_duration_seconds", text, labels, self._traffic.seconds.items())
        known = {*codes(), *CODE.values(), *self._traffic.refusals}  # each is there from the start, at 0
        refusals = (((code,), self._traffic.refusals[code]) for code in sorted(known))
        text = "Requests that were answered by an error, by its code."
        yield _counter("loadmaster_refusals", text, ("code",), refusals)
        version = {"version": __version__, "python_version": platform.python_version()}
        yield InfoMetricFamily("loadmaster_build", "What runs here.", version)


def exposition(loadmaster: Loadmaster, traffic: Traffic) -> bytes:
    """The text format, whole."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in (_Memory(loadmaster), _Work(loadmaster), _Traffic(traffic)):
        registry.register(collector)
    ProcessCollector(registry=registry)
    return generate_latest(registry)


Samples = Iterable[tuple[tuple[str, ...], float | None]]
"""Label values, and the value; None, which is unknown, has no sample and is never 0."""


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), samples)


def _counter(name: str, text: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), samples)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, samples: Samples) -> Metric:
    for values, value in samples:
        if value is not None:
            family.add_metric(values, value)
    return family


def _histogram(
    name: str, text: str, labels: tuple[str, ...], histograms: Iterable[tuple[tuple[str, ...], Histogram]]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in sorted(histograms, key=lambda labelled: labelled[0]):
        family.add_metric(values, histogram.cumulative(), histogram.sum)
    return family


def _device(device: DeviceMemoryRecord) -> tuple[str, str, str]:
    return device.id, device.uuid or "", device.kind
