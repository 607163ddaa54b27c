"""A layout: which device computes each part of a model. What accounting needs of a placement, and nothing else."""

from dataclasses import dataclass

from app.placement.slabs import HOST


@dataclass(frozen=True, slots=True)
class Layout:
    """Ids of devices, the host's among them."""

    devices: tuple[str, ...]
    """The accelerators that there are for this model, in order, those without a part of it included."""
    blocks: tuple[str, ...]
    """By number; a block's cache is where the block is."""
    output: str
    experts: tuple[str, ...] | None = None
    """Where each block's feed-forward network is, if not with its block."""
    overridden: bool = False
    """Whether single tensors were placed apart: llama.cpp then does without pipelining."""

    @property
    def feed_forward(self) -> tuple[str, ...]:
        """Where each block's feed-forward network is."""
        return self.experts or self.blocks

    def of_layer(self, number: int) -> str:
        """The device of one of llama.cpp's layers, of which a looped model has more than blocks."""
        return self.blocks[number % len(self.blocks)]

    @property
    def offloads_all(self) -> bool:
        """Whether nothing but the input is computed on the host."""
        return HOST not in {*self.blocks, *self.feed_forward, self.output}
