"""Model: everything that a file, or a set of shards, says about itself. A value; `describe` makes it."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.model.caches import Caches
from app.model.hyperparameters import Hyperparameters
from app.model.layers import Layer, Role, Tensor
from app.model.problems import Problem
from app.model.vocabulary import VocabularyFacts


@dataclass(frozen=True, slots=True)
class Model:
    """A described model. Sizes are in bytes of tensor data; a file's header and padding are not counted."""

    architecture: str
    """`general.architecture`; empty where the file has none, which is a problem."""
    architecture_known: bool
    type: str
    """`model`, or what else the file is: `mmproj`, `adapter`, `imatrix`, …"""
    name: str | None
    hyperparameters: Hyperparameters
    vocabulary: VocabularyFacts | None
    tensors: tuple[Tensor, ...]
    """In file order, shard after shard."""
    layers: tuple[Layer, ...]
    quantization: str | None
    caches: Caches
    """What a context keeps of each layer."""
    problems: tuple[Problem, ...] = ()
    """Why the model cannot be loaded; empty for a sound one."""
    notes: tuple[Problem, ...] = ()
    """What is odd about the file and no reason not to load it."""

    @property
    def blocks(self) -> tuple[Layer, ...]:
        """The layers that are blocks, ascending."""
        return tuple(layer for layer in self.layers if layer.role is Role.BLOCK)

    @property
    def tensors_by_name(self) -> Mapping[str, Tensor]:
        """The tensors under their names."""
        return {tensor.name: tensor for tensor in self.tensors}

    @property
    def parameters(self) -> int:
        """How many weights the model has."""
        return sum(tensor.parameters for tensor in self.tensors)

    @property
    def size_bytes(self) -> int:
        """Bytes of tensor data in all shards."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def n_layer(self) -> int | None:
        """`block_count`, NextN included."""
        return self.hyperparameters.n_layer

    @property
    def context_length(self) -> int | None:
        """The context the model was trained for, in tokens."""
        return self.hyperparameters.n_ctx_train
