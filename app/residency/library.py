"""The models that are known, and what they are doing: for whoever looks. Changes nothing but its list of files."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from app.errors import LoadmasterError, ModelNotFound, NotFound
from app.model import Tensor
from app.placement import Placement
from app.residency.jobs import Jobs
from app.residency.records import JobKind, LayerRecord, ModelRecord, ModelState, TensorRecord, one_device
from app.residency.registry import Entry, scan
from app.residency.residents import Resident
from app.residency.wishes import Wish, Wishes

_EPOCH: Final = time.time() - time.monotonic()

BUSY_STATE: Final = {
    JobKind.LOAD: ModelState.LOADING,
    JobKind.OFFLOAD: ModelState.MOVING,
    JobKind.UNLOAD: ModelState.UNLOADING,
}


class Library:
    """What the models directories hold, seen together with what is loaded and under way."""

    def __init__(
        self, directories: Sequence[Path], residents: Mapping[str, Resident], jobs: Jobs, wishes: Wishes
    ) -> None:
        self._directories = tuple(directories)
        self._residents = residents
        self._jobs = jobs
        self._wishes = wishes
        self._scanned: dict[str, Entry] = {}
        self._scans = 0
        self._scanning = asyncio.Lock()
        self.failures: dict[str, LoadmasterError] = {}
        """Why the last load of a model that is not loaded failed."""
        self._records: tuple[ModelRecord, ...] = ()
        self._made_of: object = None

    async def rescan(self) -> None:
        """Look at the directories again. A loaded model stays what it was when it was loaded."""
        async with self._scanning:  # of two scans the later one must have the last word
            self._scanned = await asyncio.to_thread(scan, self._directories, self._scanned)
            self._scans += 1
        for gone in self.failures.keys() - self._scanned.keys():
            del self.failures[gone]

    def entry(self, model: str) -> Entry:
        """The model's entry; ModelNotFound. Ids are looked up, never joined to a path."""
        resident = self._residents.get(model)
        entry = resident.entry if resident else self._scanned.get(model)
        if entry is None:
            raise ModelNotFound(model)
        return entry

    def entries(self) -> list[Entry]:
        """All entries, by id."""
        loaded = {id_: resident.entry for id_, resident in self._residents.items()}
        return [entry for _, entry in sorted({**self._scanned, **loaded}.items())]

    def state(self, entry: Entry) -> ModelState:
        """What the model is doing."""
        job = self._jobs.active(entry.id)
        if job is not None:
            return BUSY_STATE[job.kind]
        if entry.id in self._residents:
            return ModelState.LOADED
        if entry.model is None:
            return ModelState.INVALID
        return ModelState.FAILED if entry.id in self.failures else ModelState.AVAILABLE

    def record(self, entry: Entry) -> ModelRecord:
        """The model at this moment."""
        model, resident, job = entry.model, self._residents.get(entry.id), self._jobs.active(entry.id)
        placement = resident.current.placement if resident else None
        retention = self._wishes.retention(entry.id)
        used_at = since_epoch(resident.used_at) if resident else None
        return ModelRecord(
            id=entry.id,
            created=entry.created,
            type=model.type if model else None,
            state=self.state(entry),
            architecture=model.architecture if model else None,
            parameters=model.parameters if model else None,
            quantization=model.quantization if model else None,
            size_bytes=entry.size_bytes,
            n_layer=model.n_layer if model else None,
            context_length=model.context_length if model else None,
            n_gpu_layers=placement.n_gpu_layers if placement else None,
            n_cpu_moe=placement.n_cpu_moe if placement else None,
            generation=resident.current.number if resident else None,
            strategy=placement.strategy if placement else None,
            pinned=retention.pinned if resident else None,
            keep_alive=retention.keep_alive if resident else None,
            used_at=used_at,
            expires_at=retention.expires_at(used_at) if used_at is not None else None,
            job=job.id if job else None,
            error=entry.error or self.failures.get(entry.id),
        )

    def records(self) -> tuple[ModelRecord, ...]:
        """All models at this moment. The same object for as long as nothing of it has changed."""
        made_of = self._present()
        if made_of != self._made_of:
            self._records = tuple(self.record(entry) for entry in self.entries())
            self._made_of = made_of
        return self._records

    def _present(self) -> object:
        """All that the records are made of: while it is equal, so are they. There are few loaded models among many."""
        loaded = [
            (id_, resident.current.number, resident.used_at, self._wishes.retention(id_))
            for id_, resident in self._residents.items()
        ]
        return self._scans, loaded, dict(self._jobs.by_model), dict(self.failures)

    def wish(self, model: str) -> Wish | None:
        """What a loaded model was asked to be; None where it is not loaded."""
        return self._wishes.current.get(model) if model in self._residents else None

    def layers(self, entry: Entry) -> list[LayerRecord]:
        """The model's layers and where they are; where it is not loaded, that is the host's files."""
        placement = self._placement(entry)
        records = []
        for layer in entry.require_model().layers:
            devices = placement.layer_devices(layer)
            records.append(
                LayerRecord(
                    layer=layer.key,
                    role=layer.role,
                    size_bytes=layer.size_bytes,
                    parameters=layer.parameters,
                    types=layer.types,
                    device=one_device(devices),
                    devices=devices,
                )
            )
        return records

    def tensors(self, entry: Entry, tensors: Sequence[Tensor]) -> list[TensorRecord]:
        """These tensors of the model and where they are."""
        placement = self._placement(entry)
        records = []
        for tensor in tensors:
            devices = placement.tensor_devices(tensor)
            records.append(
                TensorRecord(
                    name=tensor.name,
                    type=tensor.type,
                    dimensions=tensor.dimensions,
                    parameters=tensor.parameters,
                    size_bytes=tensor.nbytes,
                    layer=tensor.layer,
                    device=one_device(devices),
                    devices=devices,
                )
            )
        return records

    def tensor(self, entry: Entry, name: str) -> Tensor:
        """A tensor of the model by its name; NotFound."""
        try:
            return entry.require_model().tensors_by_name[name]
        except KeyError:
            raise NotFound(f"{entry.id} has no tensor {name[:200]!r}", param="name", model=entry.id) from None

    def _placement(self, entry: Entry) -> Placement:
        resident = self._residents.get(entry.id)
        return resident.current.placement if resident else Placement("", 0, ())


def since_epoch(monotonic: float) -> float:
    """A moment of `time.monotonic` in seconds since the epoch, by the clock as it was set when this was imported."""
    return round(_EPOCH + monotonic, 3)
