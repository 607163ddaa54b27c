"""Bytes as people read them: in sentences and on pages. What programs read is in bytes."""

from typing import Final

UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def size(nbytes: int) -> str:
    """98362432 as `93.8 MiB`."""
    amount = float(nbytes)
    for unit in UNITS:
        if amount < 1024 or unit == UNITS[-1]:
            break
        amount /= 1024
    return f"{amount:.1f} {unit}" if unit != "B" else f"{nbytes} B"
