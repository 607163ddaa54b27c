"""From headers to a Model: pure, one pass over the tensor index, no data read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from app.gguf import Header, Value
from app.model.architecture import is_known
from app.model.caches import read_caches
from app.model.hyperparameters import read_hyperparameters
from app.model.layers import Tensor, group, layer_of
from app.model.model import Model
from app.model.statistics import quantization_name, quantization_notes
from app.model.structure import structure_problems, unexpected_tensors
from app.model.vocabulary import read_vocabulary


def describe(headers: Sequence[Header]) -> Model:
    """Describe a model from the headers of its shards, in order, at least one; the first has the metadata.

    Never raises for what a header says: what cannot be is in the model's `problems`.
    """
    metadata = headers[0].metadata
    architecture = _text(metadata, "general.architecture") or ""
    tensors = _tensors(headers, architecture)
    embedding = next((tensor.dimensions for tensor in tensors if tensor.name == "token_embd.weight"), ())
    hyperparameters = read_hyperparameters(
        metadata, architecture, n_vocab=embedding[-1] if len(embedding) > 1 else None
    )
    model = Model(
        architecture=architecture,
        architecture_known=is_known(architecture),
        type=_type(metadata, architecture),
        name=_text(metadata, "general.name"),
        hyperparameters=hyperparameters,
        vocabulary=read_vocabulary(metadata),
        tensors=tensors,
        layers=group(tensors),
        quantization=quantization_name(metadata, tensors),
        caches=read_caches(metadata, architecture, hyperparameters),
    )
    notes = (*unexpected_tensors(model), *quantization_notes(metadata, tensors))
    return replace(model, problems=structure_problems(model), notes=notes)


def _tensors(headers: Sequence[Header], architecture: str) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            name=info.name,
            type=info.type.name,
            dimensions=info.dimensions,
            parameters=info.parameters,
            nbytes=info.nbytes,
            file=file,
            offset=header.data_offset + info.offset,
            layer=layer_of(info.name, architecture),
        )
        for file, header in enumerate(headers)
        for info in header.tensors
    )


def _type(metadata: Mapping[str, Value], architecture: str) -> str:
    """Tell what the file is; projectors older than `general.type` are known by their architecture."""
    declared = _text(metadata, "general.type") or "model"
    return "mmproj" if architecture == "clip" and declared == "model" else declared


def _text(metadata: Mapping[str, Value], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) else None
