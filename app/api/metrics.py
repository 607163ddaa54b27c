"""Prometheus's view: the memory record and the jobs, as gauges and counters, made anew for each scrape."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.residency import Loadmaster
from app.residency.records import ModelState


class _Collector(Collector):
    def __init__(self, loadmaster: Loadmaster) -> None:
        self._loadmaster = loadmaster

    def collect(self) -> Iterator[Metric]:
        memory = self._loadmaster.memory.record()
        for column, text in (
            ("total", "What the driver reports as the device's memory."),
            ("free", "What the driver reports as free."),
            ("others", "What other processes hold, and the driver itself."),
            ("limit", "What of the device may be ours."),
            ("used", "Slabs of current placements."),
            ("weights", "Tensor bytes in current placements."),
            ("padding", "Used bytes that hold no tensor."),
            ("reserved", "Promised to jobs, or being filled."),
            ("retired", "Replaced, but still held by readers."),
        ):
            family = GaugeMetricFamily(f"loadmaster_device_{column}_bytes", text, labels=["device", "uuid", "kind"])
            for device in memory.devices:
                value = getattr(device, f"{column}_bytes")
                if value is not None:  # unknown is absent, never 0
                    family.add_metric([device.id, device.uuid or "", device.kind], value)
            yield family
        lost = GaugeMetricFamily(
            "loadmaster_device_lost", "1 where the device can do nothing any more.", labels=["device", "uuid", "kind"]
        )
        for device in memory.devices:
            lost.add_metric([device.id, device.uuid or "", device.kind], device.lost is not None)
        yield lost
        held = GaugeMetricFamily(
            "loadmaster_model_bytes", "Tensor bytes of loaded models, by device.", labels=["model", "device"]
        )
        for model in memory.models:
            for device_id, nbytes in model.devices.items():
                held.add_metric([model.id, device_id], nbytes)
        yield held
        yield from self._counts()

    def _counts(self) -> Iterator[Metric]:
        states = Counter(record.state for record in self._loadmaster.library.records())
        models = GaugeMetricFamily("loadmaster_models", "Models by state.", labels=["state"])
        for state in ModelState:
            models.add_metric([state], states[state])
        yield models
        jobs = CounterMetricFamily("loadmaster_jobs", "Jobs that have ended.", labels=["kind", "state"])
        for (kind, end), count in sorted(self._loadmaster.jobs.ended.items()):
            jobs.add_metric([kind, end], count)
        yield jobs
        copied = CounterMetricFamily("loadmaster_copied_bytes", "Bytes copied to devices.")
        copied.add_metric([], self._loadmaster.jobs.copied_bytes)
        yield copied
        listeners = GaugeMetricFamily("loadmaster_event_listeners", "Readers of event streams.")
        listeners.add_metric([], self._loadmaster.broadcast.listeners)
        yield listeners


def exposition(loadmaster: Loadmaster) -> bytes:
    """The text format, whole."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(loadmaster))
    return generate_latest(registry)
