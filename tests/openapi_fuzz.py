"""Everything that OpenAPI describes, by Schemathesis against a real service: what is sent, and what may come back.

usage: python -m tests.openapi_fuzz [--seconds N] [--seed N]

No answer may be a 500, have a status or a content type that is not described, or a body that is not of its schema; what
the schema forbids is refused, and without a key everything is. Nor may a traceback be logged. Ends with 1 where
something is found, after the commands that show it. `schemathesis.toml` says what OpenAPI cannot.
"""

import argparse
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.api.server import TINY, load, serving
from tests.gguf_builder import tiny_llama

KEY = "openapi-fuzz-admin-key"

CONFIG = Path(__file__).with_name("schemathesis.toml")


class Tracebacks(logging.Handler):
    """Counts what is logged with one."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record that has one."""
        if record.exc_info:
            self.count += 1
            print(self.format(record), file=sys.stderr)


def main() -> None:
    """Parse the command line, serve, and let Schemathesis ask."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=int, default=40, help="how long to go on")
    arguments.add_argument("--seed", type=int, help="of an earlier run, to repeat it")
    options = arguments.parse_args()

    logging.getLogger().addHandler(tracebacks := Tracebacks())
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        (directory / "models" / "org").mkdir(parents=True)
        (directory / "models" / "org" / "Tiny.gguf").write_bytes(tiny_llama())
        keys = f"fuzz:admin:{KEY}"
        with serving(directory / "state", models=(directory / "models",), api_keys=keys) as client:
            client.headers["Authorization"] = f"Bearer {KEY}"
            load(client, TINY, pinned=True, n_gpu_layers=1)
            command = [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"),
                *(str(client.base_url.join("/openapi.json")), "--header", f"Authorization: Bearer {KEY}"),
                *("--max-time", str(options.seconds), "--request-timeout", "30", "--continue-on-failure"),
                *(("--seed", str(options.seed)) if options.seed else ()),
            ]
            found = subprocess.run(command, cwd=directory, check=False).returncode  # noqa: S603 - our own command
    sys.exit(found or tracebacks.count > 0)


if __name__ == "__main__":
    main()
