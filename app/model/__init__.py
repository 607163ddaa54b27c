"""Which model it is: headers in, a description out, with everything that is wrong in it.

>>> model = describe([header])
>>> model.architecture, model.n_layer, model.parameters, model.problems

Knows what llama.cpp's models look like; refuses to know files, devices and placements, and reads no weights.
Read `model.py` first, then `describe.py`. What tensors look like is a table in `tensor_table.py`; which of them have
to be there, `families.py` (within a block) and `agreement.py` (among blocks) tell.
"""

from app.model.architecture import is_known, known_architectures
from app.model.describe import describe
from app.model.hyperparameters import Hyperparameters, read_hyperparameters
from app.model.layers import Layer, LayerKey, Role, Tensor, group, layer_of
from app.model.model import Model
from app.model.problems import Problem, ProblemKind
from app.model.skeleton import ExpectedTensor, skeleton
from app.model.statistics import LayerStatistics, Statistics, TypeStatistics, quantization_name, statistics
from app.model.structure import structure_problems
from app.model.tokens import Vocabulary, read_tokens
from app.model.vocabulary import VocabularyFacts, read_vocabulary

__all__ = [
    "ExpectedTensor",
    "Hyperparameters",
    "Layer",
    "LayerKey",
    "LayerStatistics",
    "Model",
    "Problem",
    "ProblemKind",
    "Role",
    "Statistics",
    "Tensor",
    "TypeStatistics",
    "Vocabulary",
    "VocabularyFacts",
    "describe",
    "group",
    "is_known",
    "known_architectures",
    "layer_of",
    "quantization_name",
    "read_hyperparameters",
    "read_tokens",
    "read_vocabulary",
    "skeleton",
    "statistics",
    "structure_problems",
]
