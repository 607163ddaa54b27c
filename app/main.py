"""The composition root: every object of the program is made here, and taken down again.

Run it as `loadmaster serve`, or `uvicorn --factory app.main:create_app`, with one worker: a second one would own a
second copy of the memory. Importing this module has no effects.
"""

import asyncio
import resource
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import TypedDict

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from app import __version__
from app.api import documentation, events, jobs, models, placement, system, vocabulary
from app.api.answers import Answers, Shortcut
from app.api.dialects import ollama, triton
from app.api.documentation import describe_doors
from app.api.errors import add_error_handlers
from app.api.headers import NamedOrigins, SafeHeaders
from app.api.keys import Lock
from app.api.middleware import BodyLimit, Door, StartRefusal
from app.api.schemas import encode
from app.api.traffic import Access, Traffic
from app.config import Settings
from app.devices.host import HostDevice
from app.devices.limits import limits_of
from app.devices.settings import open_devices
from app.residency import Loadmaster
from app.residency.wishes import Wishes

MAX_BODY_BYTES = 1 << 20
SWITCH_SECONDS = 0.0005
"""How long a thread that parses or plans keeps others from running Python: a tenth of the interpreter's default.

The event loop waits for that several times in each request.
"""
STATIC = Path(__file__).parent / "static"


class State(TypedDict):
    """What every request can reach."""

    loadmaster: Loadmaster
    answers: Answers
    traffic: Traffic


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service. Settings are read from the environment unless they are given."""
    settings = settings or Settings()
    traffic = Traffic()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        _allow_many_files()
        sys.setswitchinterval(SWITCH_SECONDS)
        wishes = await Wishes.open(settings.state_dir)
        try:
            devices = [*await asyncio.to_thread(open_devices, settings.devices), HostDevice()]
            limits = await asyncio.to_thread(limits_of, settings.memory_limit, devices)
        except BaseException:
            await wishes.close()
            raise
        loadmaster = Loadmaster(settings.models_dir, devices, limits, wishes, encode)
        try:
            await loadmaster.start()
            with _on_a_signal(loadmaster.begin_stop):
                yield State(loadmaster=loadmaster, answers=Answers(loadmaster), traffic=traffic)
        finally:
            await loadmaster.stop()

    app = FastAPI(
        title="Loadmaster",
        version=__version__,
        summary="Loads, places and rebalances GGUF weights across host memory and GPUs, while they are in use.",
        lifespan=lifespan,
        docs_url=None,  # ours is served from here, and works offline
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_doors(app, settings)
    app.add_middleware(Access, traffic=traffic)  # the last one is the first to be called
    add_error_handlers(app)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    # `models` ends in a route that takes any path.
    for module in (ollama, triton, placement, vocabulary, models, jobs, events, system, documentation):
        app.include_router(module.router)
    describe_doors(app, locked=bool(settings.keys))
    return app


def _add_doors(app: FastAPI, settings: Settings) -> None:
    """What a call passes before it reaches a route, the innermost first."""
    app.add_middleware(Shortcut)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    if settings.keys:
        app.add_middleware(Lock, keys=settings.keys)
    if settings.cors_origins:  # outside of the lock: a browser asks whether it may show a key without showing it
        app.add_middleware(NamedOrigins, origins=settings.cors_origins)
    names = (settings.host, *settings.allowed_hosts)
    hosts = (*names, *(f"[{name}]" for name in names))  # in brackets, if it is an IPv6 address
    app.add_middleware(Door, hosts=hosts, origins=settings.cors_origins)
    app.add_middleware(SafeHeaders)
    app.add_middleware(StartRefusal)


def _allow_many_files() -> None:
    """Take all the descriptors that we may have: every file and every slab of a simulated device is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def _on_a_signal(begin_stop: Callable[[], None]) -> Iterator[None]:
    """On SIGTERM and SIGINT end event streams and call jobs off before the server's own handler runs.

    uvicorn waits for open responses before it reaches the lifespan's end: a stream never ends by itself, and whoever
    waits for a job should be told in time.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are another's business
        return
    loop = asyncio.get_running_loop()
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin_stop)
        handler = former[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in former:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
