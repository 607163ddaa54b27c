"""The client that blocks: what it can be asked is in `questions`; here is how it does the I/O."""

import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

import httpx
from httpx_sse import EventSource

from loadmaster import questions
from loadmaster.errors import LoadmasterError, Unreachable
from loadmaster.exchange import Translation, answer, arguments, headers, named_after, refusal_in, stream, url_of
from loadmaster.listening import Listening, Lost, job_in
from loadmaster.questions import Question, failure
from loadmaster.records import Event, Job

P = ParamSpec("P")
T = TypeVar("T")


def _method(ask: Callable[P, Question[T]]) -> "Callable[Concatenate[Client, P], T]":
    """A question as a method of the client that blocks."""

    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._ask(ask(*args, **kwargs))

    return named_after(ask, method)


class Client:
    """A connection to one service that blocks; safe to use from several threads. Close it, or use it in a `with`.

    `url` and `api_key` are taken from LOADMASTER_URL and LOADMASTER_API_KEY unless they are given. `timeout` is in
    seconds and for one answer; a call that waits for a job waits as long as the job takes. Placements are keyword
    arguments named like the body's fields, see `Placement`. Every call raises what `loadmaster.errors` draws:
    Refused where the service says no, Unreachable where it is not there.

    >>> with Client(URL) as client:
    ...     job = client.load(MODEL, n_gpu_layers=12)
    ...     job = client.offload(MODEL, n_gpu_layers=24)
    ...     client.model(MODEL).n_gpu_layers
    24
    """

    models = _method(questions.models)
    model = _method(questions.model)
    rescan = _method(questions.rescan)
    metadata = _method(questions.metadata)
    metadata_value = _method(questions.metadata_value)
    statistics = _method(questions.statistics)
    layers = _method(questions.layers)
    tensors = _method(questions.tensors)
    tensor_data = _method(questions.tensor_data)
    tokenize = _method(questions.tokenize)
    detokenize = _method(questions.detokenize)
    vocabulary = _method(questions.vocabulary)
    plan = _method(questions.plan)
    load = _method(questions.load)
    offload = _method(questions.offload)
    unload = _method(questions.unload)
    touch = _method(questions.touch)
    verify = _method(questions.verify)
    devices = _method(questions.devices)
    memory = _method(questions.memory)
    model_memory = _method(questions.model_memory)
    jobs = _method(questions.jobs)
    job = _method(questions.job)
    cancel = _method(questions.cancel)

    def __init__(self, url: str | None = None, *, api_key: str | None = None, timeout: float | None = 30.0) -> None:
        self.url = url_of(url)
        with Translation(self.url):
            self._http = httpx.Client(base_url=self.url, headers=headers(api_key), timeout=timeout)

    def events(
        self, last_event_id: str | None = None, *, reconnect: bool = True, lost: Lost | None = None
    ) -> Generator[Event, None, None]:
        """Events as they come, without end: a snapshot of the present first, or what came after `last_event_id`.

        A lost connection is made anew, and goes on where it was: after a restart of the service with a snapshot.
        `lost` is called with the error whenever one is lost or cannot be had again; without `reconnect` it is raised.
        Raises Unreachable where nobody answers the first time.

        >>> events = client.events()
        >>> next(events).name
        'snapshot'
        >>> events.close()
        """
        yield from self._listen(Listening("/v1/events", last_event_id, reconnect=reconnect, lost=lost))

    def follow(self, job: Job | str) -> Generator[Job, None, None]:
        """A job as it goes on, up to its end and at most ten times a second; does not raise where the job fails.

        Waits as long as the service is away; raises NotFound where it does not know the job, after a restart say.

        >>> [job.state for job in client.follow(client.load(MODEL, wait=False))][-1]
        'succeeded'
        """
        if isinstance(job, Job) and job.ended:
            yield job
            return
        path = questions.job_events(job if isinstance(job, str) else job.id)
        for event in self._listen(Listening(path, None, reconnect=True, lost=None)):
            if (present := job_in(event)) is not None:
                yield present
                if present.ended:
                    return

    def wait(self, job: Job | str, *, progress: Callable[[Job], object] | None = None) -> Job:
        """Wait for a job; `progress` is called with every change of it. Returns it as it ended.

        Raises what the job failed with, or Cancelled; and NotFound as `follow` does.

        >>> client.wait(client.load(MODEL, wait=False), progress=lambda job: None).progress
        1.0
        """
        for present in self.follow(job):
            if progress is not None:
                progress(present)
        if (error := failure(present)) is not None:
            raise error
        return present

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: Question[T]) -> T:
        try:
            request = next(question)
            while True:
                with Translation(self.url):
                    response = self._http.request(**arguments(request))
                request = question.send(answer(request, response))
        except StopIteration as end:
            result: T = end.value
            return result

    def _listen(self, listening: Listening) -> Generator[Event, None, None]:
        while True:
            try:
                with Translation(self.url), self._http.stream("GET", listening.path, **stream(listening)) as response:
                    if response.is_error:
                        response.read()
                        raise refusal_in(response)
                    listening.connected()
                    for event in EventSource(response).iter_sse():
                        if (taken := listening.take(event.id, event.event, event.data)) is not None:
                            yield taken
                raise Unreachable(f"{self.url}: the service has ended the stream")
            except LoadmasterError as error:
                pause = listening.pause(error)
            time.sleep(pause)
