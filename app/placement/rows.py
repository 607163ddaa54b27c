"""Row split: each matrix cut across the devices by rows, in proportion; the rest on the first device."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, pairwise

from app.model import Tensor
from app.placement.slabs import Part


@dataclass(frozen=True, slots=True)
class RowCut:
    """The devices and their shares, which are numbers of 0 and above, and not all 0."""

    devices: tuple[str, ...]
    shares: tuple[float, ...]

    def parts(self, tensor: Tensor) -> Iterator[tuple[str, Part]]:
        """The tensor's bytes by device, in order; each device's rows end at the floor of its share of them.

        A row is what the first dimension counts, and never cut: its bytes are whole blocks of the tensor's type.
        """
        rows = tensor.parameters // tensor.dimensions[0] if tensor.dimensions and tensor.dimensions[0] else 0
        if rows < 2 or len(tensor.dimensions) < 2:
            yield self.devices[0], Part(tensor, 0, tensor.nbytes)
            return
        row_bytes = tensor.nbytes // rows
        for device, (start, stop) in zip(self.devices, pairwise(_stops(self.shares, rows)), strict=True):
            if stop > start:
                yield device, Part(tensor, start * row_bytes, (stop - start) * row_bytes)


@lru_cache(maxsize=256)
def _stops(shares: tuple[float, ...], rows: int) -> list[int]:
    sums = list(accumulate((Fraction(repr(share)) for share in shares), initial=Fraction(0)))
    return [int(rows * upto / sums[-1]) for upto in sums]
