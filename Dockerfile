# The service. docker build .  or, with CuPy for NVIDIA GPUs,  docker build --build-arg EXTRA=cuda12 .

ARG PYTHON=3.13

FROM python:${PYTHON}-slim-bookworm AS build
ARG EXTRA=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY loadmaster loadmaster
# pip only warns of an extra that does not exist, and the image would come out without CuPy.
RUN case "${EXTRA}" in ""|cuda12|cuda13) ;; *) echo "EXTRA is '${EXTRA}', not cuda12 or cuda13" >&2; exit 1 ;; esac \
    && python -m venv /opt/loadmaster \
    && /opt/loadmaster/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && /opt/loadmaster/bin/pip install --no-cache-dir "$(echo /wheels/*.whl)${EXTRA:+[${EXTRA}]}"

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="Loadmaster" \
      org.opencontainers.image.description="Loads, places and rebalances GGUF weights across host memory and GPUs, while they are in use" \
      org.opencontainers.image.licenses="MIT"

# Fixed numbers, so that the owner of a mounted state directory can be named beforehand.
RUN groupadd --gid 10001 loadmaster \
    && useradd --uid 10001 --gid loadmaster --no-create-home --home-dir /state --shell /usr/sbin/nologin loadmaster \
    && install --directory --owner=loadmaster --group=loadmaster /models /state
COPY --from=build /opt/loadmaster /opt/loadmaster

# All addresses of the container. Without keys (LOADMASTER_API_KEYS_FILE, say) or LOADMASTER_ALLOW_UNAUTHENTICATED the
# service refuses to start on them, and says so: whether strangers may reach it is for the one who runs it to say.
ENV PATH=/opt/loadmaster/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LOADMASTER_HOST=0.0.0.0 \
    LOADMASTER_PORT=8288 \
    LOADMASTER_MODELS_DIR=/models \
    LOADMASTER_STATE_DIR=/state \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

USER 10001:10001
WORKDIR /state
VOLUME ["/models", "/state"]
EXPOSE 8288

# The first scan of the models directories ends before the port answers, so the start may take a while.
# http.client, unlike urllib.request, never asks a proxy that the environment names.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import http.client as http, os; probe = http.HTTPConnection('127.0.0.1', int(os.environ['LOADMASTER_PORT']), timeout=4); probe.request('GET', '/healthz'); raise SystemExit(probe.getresponse().status != 200)"]

CMD ["loadmaster", "serve"]
