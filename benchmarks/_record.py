"""What the benchmarks share: which machine this is, and the page where results are kept."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def machine() -> str:
    """Name the processor, its cores, and the Python."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor()
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def record(title: str, how: str, report: str) -> None:
    """Append a report to RESULTS.md, with the date, the machine, and how it was measured."""
    date = datetime.now(UTC).date().isoformat()
    with RESULTS.open("a", encoding="utf-8") as results:
        results.write(f"\n## {title}, {date}\n\n{machine()}; {how}.\n\n{report}\n")
