"""What is refused, with the sentence, the byte and the field: the cases are in `cases.py`."""

import pytest

from app.errors import NotGGUF
from app.gguf import Header, parse_header
from tests.gguf.cases import ACCEPTED_HERE, IMPOSTORS, LLAMA_CPP_ACCEPTS, LLAMA_CPP_REFUSES, REFUSED_HERE, Case


def whole(data: bytes) -> Header:
    """Parse a file and compare its data with its size, as the registry does."""
    header = parse_header(data)
    header.check_data(len(data))
    return header


@pytest.mark.parametrize("case", LLAMA_CPP_REFUSES.values(), ids=LLAMA_CPP_REFUSES)
def test_what_llama_cpp_refuses(case: Case) -> None:
    """Each file that llama.cpp's tests call bad is refused for that reason, at that byte, in that field."""
    refuses(case)


@pytest.mark.parametrize("case", REFUSED_HERE.values(), ids=REFUSED_HERE)
def test_what_else_is_refused(case: Case) -> None:
    """Each further cause has its own sentence, byte and field."""
    refuses(case)


def refuses(case: Case) -> None:
    """Assert that a case is refused as it says."""
    with pytest.raises(case.error) as caught:
        whole(case.data)

    assert type(caught.value) is case.error
    assert (caught.value.field, caught.value.offset) == (case.field, case.offset)
    assert case.message in caught.value.message


@pytest.mark.parametrize("data", LLAMA_CPP_ACCEPTS.values(), ids=LLAMA_CPP_ACCEPTS)
def test_what_llama_cpp_accepts(data: bytes) -> None:
    """Each file that llama.cpp's tests call good is accepted."""
    whole(data)


@pytest.mark.parametrize("data", ACCEPTED_HERE.values(), ids=ACCEPTED_HERE)
def test_what_else_is_accepted(data: bytes) -> None:
    """What llama.cpp reads is read here, at the edges too."""
    whole(data)


def test_no_case_of_llama_cpp_is_left_out() -> None:
    """The handcrafted files of llama.cpp's tests/test-gguf.cpp are all here, by their names."""
    refused = """
        HEADER_BAD_MAGIC HEADER_BAD_VERSION_0 HEADER_BAD_VERSION_1 HEADER_BAD_VERSION_FUTURE HEADER_BAD_N_KV
        HEADER_BAD_N_TENSORS KV_BAD_KEY_SIZE KV_EMPTY_KEY KV_BAD_TYPE KV_DUPLICATE_KEY KV_BAD_ALIGN
        KV_WRONG_TYPE_ALIGN TENSORS_BAD_NAME_SIZE TENSORS_BAD_N_DIMS TENSORS_BAD_SHAPE TENSORS_NE_TOO_BIG
        TENSORS_NBYTES_TOO_BIG TENSORS_NBYTES_PAD_WRAP TENSORS_BAD_TYPE TENSORS_BAD_OFFSET TENSORS_DUPLICATE_NAME
        TENSORS_BAD_ALIGN TENSORS_INCONSISTENT_ALIGN DATA_NOT_ENOUGH_DATA DATA_BAD_ALIGN DATA_INCONSISTENT_ALIGN
        DATA_MEM_SIZE_OVERFLOW
    """
    accepted = """
        HEADER_EMPTY KV_SUCCESS TENSORS_ZERO_DIM TENSORS_SUCCESS TENSORS_CUSTOM_ALIGN DATA_SUCCESS DATA_CUSTOM_ALIGN
    """

    assert (set(LLAMA_CPP_REFUSES), set(LLAMA_CPP_ACCEPTS)) == (set(refused.split()), set(accepted.split()))


@pytest.mark.parametrize(("data", "message"), IMPOSTORS.values(), ids=IMPOSTORS)
def test_what_is_no_gguf_is_recognised(data: bytes, message: str) -> None:
    """The common mistakes are called by their names."""
    with pytest.raises(NotGGUF) as caught:
        parse_header(data)

    assert message in caught.value.message
