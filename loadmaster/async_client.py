"""The client that is awaited: what it can be asked is in `questions`; here is how it does the I/O."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

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


def _async_method(ask: Callable[P, Question[T]]) -> "Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]":
    """A question as a method of the client that awaits."""

    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._ask(ask(*args, **kwargs))

    return named_after(ask, method)


class AsyncClient:
    """The same as `Client`, to be awaited: same names, same arguments, same results. Use it in an `async with`.

    >>> async def gpu_bytes():
    ...     async with AsyncClient(URL) as client:
    ...         await client.load(MODEL, n_gpu_layers="all")
    ...         return (await client.model_memory(MODEL)).gpu_bytes
    >>> asyncio.run(gpu_bytes())
    96576768
    """

    models = _async_method(questions.models)
    model = _async_method(questions.model)
    rescan = _async_method(questions.rescan)
    metadata = _async_method(questions.metadata)
    metadata_value = _async_method(questions.metadata_value)
    statistics = _async_method(questions.statistics)
    layers = _async_method(questions.layers)
    tensors = _async_method(questions.tensors)
    tensor_data = _async_method(questions.tensor_data)
    tokenize = _async_method(questions.tokenize)
    detokenize = _async_method(questions.detokenize)
    vocabulary = _async_method(questions.vocabulary)
    plan = _async_method(questions.plan)
    load = _async_method(questions.load)
    offload = _async_method(questions.offload)
    unload = _async_method(questions.unload)
    touch = _async_method(questions.touch)
    verify = _async_method(questions.verify)
    devices = _async_method(questions.devices)
    memory = _async_method(questions.memory)
    model_memory = _async_method(questions.model_memory)
    jobs = _async_method(questions.jobs)
    job = _async_method(questions.job)
    cancel = _async_method(questions.cancel)

    def __init__(self, url: str | None = None, *, api_key: str | None = None, timeout: float | None = 30.0) -> None:
        self.url = url_of(url)
        with Translation(self.url):
            self._http = httpx.AsyncClient(base_url=self.url, headers=headers(api_key), timeout=timeout)

    async def events(
        self, last_event_id: str | None = None, *, reconnect: bool = True, lost: Lost | None = None
    ) -> AsyncGenerator[Event, None]:
        """As `Client.events`. Whoever leaves the loop early closes it: `contextlib.aclosing` does.

        >>> async def first():
        ...     async with AsyncClient(URL) as client, aclosing(client.events()) as events:
        ...         return (await anext(events)).name
        >>> asyncio.run(first())
        'snapshot'
        """
        async for event in self._listen(Listening("/v1/events", last_event_id, reconnect=reconnect, lost=lost)):
            yield event

    async def follow(self, job: Job | str) -> AsyncGenerator[Job, None]:
        """As `Client.follow`.

        >>> async def states():
        ...     async with AsyncClient(URL) as client:
        ...         return [job.state async for job in client.follow(await client.load(MODEL, wait=False))]
        >>> asyncio.run(states())[-1]
        'succeeded'
        """
        if isinstance(job, Job) and job.ended:
            yield job
            return
        path = questions.job_events(job if isinstance(job, str) else job.id)
        async for event in self._listen(Listening(path, None, reconnect=True, lost=None)):
            if (present := job_in(event)) is not None:
                yield present
                if present.ended:
                    return

    async def wait(self, job: Job | str, *, progress: Callable[[Job], object] | None = None) -> Job:
        """As `Client.wait`.

        >>> async def ended():
        ...     async with AsyncClient(URL) as client:
        ...         return await client.wait(await client.unload(MODEL, wait=False))
        >>> asyncio.run(ended()).state
        'succeeded'
        """
        async for present in self.follow(job):
            if progress is not None:
                progress(present)
        if (error := failure(present)) is not None:
            raise error
        return present

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, question: Question[T]) -> T:
        try:
            request = next(question)
            while True:
                with Translation(self.url):
                    response = await self._http.request(**arguments(request))
                request = question.send(answer(request, response))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _listen(self, listening: Listening) -> AsyncGenerator[Event, None]:
        while True:
            try:
                with Translation(self.url):
                    async with self._http.stream("GET", listening.path, **stream(listening)) as response:
                        if response.is_error:
                            await response.aread()
                            raise refusal_in(response)
                        listening.connected()
                        async for event in EventSource(response).aiter_sse():
                            if (taken := listening.take(event.id, event.event, event.data)) is not None:
                                yield taken
                raise Unreachable(f"{self.url}: the service has ended the stream")
            except LoadmasterError as error:
                pause = listening.pause(error)
            await asyncio.sleep(pause)
