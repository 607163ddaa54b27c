"""The client library against a real service."""

import asyncio
from contextlib import aclosing
from inspect import signature
from pathlib import Path

import pytest

from loadmaster import (
    AsyncClient,
    Busy,
    Client,
    DeviceError,
    DoesNotFit,
    InvalidRequest,
    Job,
    Memory,
    Model,
    ModelDetail,
    NotFound,
    NotLoaded,
    Snapshot,
    StaleGeneration,
    Unreachable,
    errors,
    questions,
)
from loadmaster.errors import LoadmasterError, UnexpectedAnswer
from loadmaster.listening import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Listening
from loadmaster.records import Verification, read
from tests.api.server import DEMO_ID as MODEL
from tests.api.server import serving

NOBODY = "http://127.0.0.1:9"


def test_a_model_is_loaded_moved_checked_and_unloaded(client: Client) -> None:
    """Each call returns when the work is done, with the service's own answer."""
    assert [model.id for model in client.models()] == [MODEL]
    assert client.plan(MODEL, n_gpu_layers=12).fits
    assert client.load(MODEL, n_gpu_layers=12).state == "succeeded"
    generation = client.model(MODEL).generation
    assert generation is not None

    assert client.touch(MODEL).used_at is not None
    assert client.offload(MODEL, n_gpu_layers=24, generation=generation).generation == generation + 1
    assert sum(layer.device != "cpu" for layer in client.layers(MODEL)) == 26
    verified = client.verify(MODEL, deep=True).result
    assert isinstance(verified, Verification)
    assert verified.ok
    assert client.memory().models[0].gpu_bytes == client.model_memory(MODEL).gpu_bytes > 0
    assert client.unload(MODEL).state == "succeeded"
    assert {"load", "offload", "verify", "unload"} <= {job.kind for job in client.jobs()}


def test_bytes_are_read_whole_and_in_parts(client: Client) -> None:
    """From a device as from the file; offsets are in bytes."""
    client.load(MODEL, n_gpu_layers="all")
    norm = next(tensor for tensor in client.tensors(MODEL) if tensor.name == "output_norm.weight")
    whole = client.tensor_data(MODEL, norm.name)

    assert norm.devices == {"sim:1": len(whole)}
    assert client.tensor_data(MODEL, norm.name, start=4, stop=12) == whole[4:12]
    assert client.tensor_data(MODEL, norm.name, start=2300) == whole[2300:]


def test_refusals_are_exceptions_of_their_kind(client: Client) -> None:
    """Status, code, field and numbers; every one is a Refused and a LoadmasterError."""
    with pytest.raises(NotFound, match="nothing") as missing:
        client.model("a/b/nothing")
    assert (missing.value.status, missing.value.code) == (404, "model_not_found")

    with pytest.raises(InvalidRequest) as invalid:
        client.load(MODEL, n_gpu_layers=-1)
    assert invalid.value.param == "n_gpu_layers"

    with pytest.raises(DoesNotFit) as large:
        client.load(MODEL, n_gpu_layers=30, devices=["sim:0"])
    error = large.value
    assert (error.device, error.available_bytes, error.largest_n_gpu_layers) == ("sim:0", 64 << 20, 16)
    assert error.required_bytes == error.numbers["required_bytes"] == 96_576_768

    with pytest.raises(NotLoaded):
        client.offload(MODEL, n_gpu_layers=1)
    client.load(MODEL, n_gpu_layers=1)
    with pytest.raises(StaleGeneration) as stale:
        client.offload(MODEL, n_gpu_layers=2, generation=10**6)
    assert stale.value.generation == client.model(MODEL).generation


def test_a_job_is_followed_to_its_end(client: Client) -> None:
    """Every change of it, by its id or the job itself; one that has ended is told once."""
    started = client.load(MODEL, n_gpu_layers=4, wait=False)
    seen: list[Job] = []
    ended = client.wait(started, progress=seen.append)

    assert (ended.state, ended.bytes_done, ended.progress) == ("succeeded", ended.bytes_total, 1.0)
    assert seen[-1] == ended
    assert [job.progress for job in seen] == sorted(job.progress for job in seen)
    assert [job.id for job in client.follow(started.id)] == [started.id]
    assert list(client.follow(ended)) == [ended]
    assert client.cancel(ended.id) == client.job(ended.id) == ended
    with pytest.raises(NotFound):
        client.wait("no-such-job")


def test_a_job_that_fails_raises_its_error_once_it_is_waited_for(tmp_path: Path) -> None:
    """With the device's name; following it only tells, and a status is HTTP's."""
    with serving(tmp_path, devices="sim:64MiB:failcopy=1") as http, Client(str(http.base_url)) as client:
        with pytest.raises(DeviceError) as waited:
            client.wait(client.load(MODEL, n_gpu_layers=1, wait=False))
        *_, last = client.follow(client.jobs()[0].id)

    assert (waited.value.status, waited.value.code, waited.value.device) == (None, "device_error", "sim:0")
    assert last.state == "failed"


def test_a_key_is_sent_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """As given, else from the environment, without the line's end that a file may have brought."""
    monkeypatch.setenv("LOADMASTER_API_KEY", "of-the-environment\n")

    assert Client()._http.headers["Authorization"] == "Bearer of-the-environment"
    assert AsyncClient(api_key="given")._http.headers["Authorization"] == "Bearer given"


def test_a_listener_tries_for_as_long_as_it_takes() -> None:
    """Quickly at first, then every few seconds, even after thousands of tries; a refusal for good ends it."""
    listening = Listening("/v1/events", None, reconnect=True, lost=None)
    with pytest.raises(Unreachable):
        listening.pause(Unreachable("never there"))
    listening.connected()
    pauses = [listening.pause(Unreachable("gone")) for _ in range(3000)]

    assert pauses[0] <= FIRST_PAUSE_SECONDS
    assert LONGEST_PAUSE_SECONDS / 2 <= pauses[-1] <= LONGEST_PAUSE_SECONDS
    with pytest.raises(NotFound):
        listening.pause(errors.refusal(404, {"message": "no such job"}))


def test_events_begin_with_the_present(client: Client) -> None:
    """A snapshot, then what changes, each as what it is; with the last event's id they go on after it."""
    events = client.events()
    assert isinstance(next(events).data, Snapshot)
    client.load(MODEL, n_gpu_layers=2)
    seen = [next(events) for _ in range(3)]
    events.close()
    kinds = {"job": Job, "model": Model, "memory": Memory}
    assert all(isinstance(event.data, kinds[event.name]) for event in seen)

    again = client.events(last_event_id=seen[0].id)
    assert next(again) == seen[1]
    again.close()


def test_both_clients_can_be_asked_the_same() -> None:
    """Every question, by the same name and with the same arguments."""
    asked = [name for name, value in vars(questions).items() if getattr(value, "__module__", "") == questions.__name__]
    asked = [name for name in asked if hasattr(Client, name)]

    assert {"models", "load", "tokenize", "cancel"} <= set(asked)
    for name in [*asked, "events", "follow", "wait", "close"]:
        mine, other = signature(getattr(Client, name)), signature(getattr(AsyncClient, name))
        assert list(mine.parameters.values()) == list(other.parameters.values()), name


def test_the_async_client_does_the_same(service: str, client: Client) -> None:
    """Load with progress, refuse with numbers, listen; two at once."""

    async def session() -> None:
        async with AsyncClient(service) as asking:
            started = await asking.load(MODEL, n_gpu_layers=3, wait=False)
            seen: list[Job] = []
            ended = await asking.wait(started, progress=seen.append)
            assert seen[-1] == ended
            one, other = await asyncio.gather(asking.models(), asking.memory())
            assert (one[0].n_gpu_layers, len(other.models)) == (3, 1)
            assert await asking.model(MODEL) == client.model(MODEL)
            with pytest.raises(DoesNotFit, match="does not fit"):
                await asking.load(MODEL, n_gpu_layers=30, devices=["sim:0"])
            async with aclosing(asking.events()) as events:
                assert (await anext(events)).name == "snapshot"

    asyncio.run(session())


def test_a_service_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unreachable, which is a ConnectionError, too, and names the address; so does what is no address."""
    monkeypatch.setenv("LOADMASTER_URL", NOBODY)
    with Client() as nobody:
        for question in (nobody.models, lambda: next(nobody.events()), lambda: nobody.load("a")):
            with pytest.raises(Unreachable, match=NOBODY):
                question()
    with pytest.raises(ConnectionError), Client("gopher://127.0.0.1") as strange:
        strange.models()
    with pytest.raises(Unreachable, match="http"):
        Client("http://[::1")

    async def ask() -> None:
        async with AsyncClient(NOBODY) as absent:
            await absent.memory()

    with pytest.raises(Unreachable, match=NOBODY):
        asyncio.run(ask())


def test_a_newer_service_is_understood(client: Client) -> None:
    """Fields that this library does not know are in `body`; one that it knows must be there."""
    body = {"name": "a.gguf", "size_bytes": 1, "modified": 2.0, "colour": "red"}

    assert client.models()[0].body["id"] == MODEL
    file = read(ModelDetail, client.model(MODEL).body | {"files": [body], "mood": "fair"})
    assert (file.files[0].body["colour"], file.body["mood"]) == ("red", "fair")
    with pytest.raises(UnexpectedAnswer, match="a modeldetail without "):
        read(ModelDetail, {"id": "a"})


def test_the_error_tree_is_drawn() -> None:
    """The picture in the docstring of `loadmaster.errors` shows each class of the tree, and no other."""

    def below(kind: type[Exception]) -> set[str]:
        return {name for child in kind.__subclasses__() for name in (child.__name__, *below(child))}

    drawn = {line.split("── ")[1].split()[0] for line in (errors.__doc__ or "").splitlines() if "── " in line}
    assert drawn == below(LoadmasterError)


def test_a_busy_model_names_its_job() -> None:
    """The job's id is in the exception, to wait for it or to call it off."""
    error = errors.refusal(409, {"message": "busy", "code": "busy", "job": "j1"})

    assert isinstance(error, Busy)
    assert error.job == "j1"
