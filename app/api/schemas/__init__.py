"""What goes out, where it differs from the domain's own records."""

from app.api.schemas.changes import JobOut, PlanOut
from app.api.schemas.envelopes import ErrorBody, ErrorText, ListOut
from app.api.schemas.models import (
    FileOut,
    MetadataOut,
    MetadataValueOut,
    ModelDetailOut,
    ModelMemoryOut,
    ModelOut,
    ProblemOut,
    RequestOut,
    StatisticsOut,
    VocabularyOut,
    list_of_models,
)
from app.api.schemas.stream import encode, encode_memory, encode_models
from app.api.schemas.system import DeviceOut, HealthOut
from app.api.schemas.vocabulary import TextOut, TokensOut

__all__ = [
    "DeviceOut",
    "ErrorBody",
    "ErrorText",
    "FileOut",
    "HealthOut",
    "JobOut",
    "ListOut",
    "MetadataOut",
    "MetadataValueOut",
    "ModelDetailOut",
    "ModelMemoryOut",
    "ModelOut",
    "PlanOut",
    "ProblemOut",
    "RequestOut",
    "StatisticsOut",
    "TextOut",
    "TokensOut",
    "VocabularyOut",
    "encode",
    "encode_memory",
    "encode_models",
    "list_of_models",
]
