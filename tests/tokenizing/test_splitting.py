"""Pre-tokenizers cut text where llama.cpp's do: against its own cuts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import UnsupportedTokenizer
from app.model.pretokenizers import PRETOKENIZERS, PreTokenizer, pretokenizer
from app.model.tokenizer_kinds import TOKENIZER_KINDS, Algorithm, tokenizer_kind
from app.tokenizing.splitting import splitter

# Lengths of the pieces, in code points, of each text by each way to cut; `source` in the file tells who cut them.
GOLDEN = json.loads((Path(__file__).parent / "pretokenizer_splits.json").read_text(encoding="utf-8"))


def pieces(entry: PreTokenizer, text: str) -> list[str]:
    """Cut a text as the entry says, and leave it readable."""
    return [piece for piece, _ in splitter(replace(entry, byte_level=False)).pre_tokenize_str(text)]


@pytest.mark.parametrize("name", GOLDEN["pieces"])
def test_cuts_are_llama_cpps(name: str) -> None:
    """Every text is cut where llama.cpp cuts it: scripts, blanks, marks, digits, new and unassigned characters."""
    cut = [" ".join(str(len(piece)) for piece in pieces(PRETOKENIZERS[name], text)) for text in GOLDEN["texts"]]

    assert cut == GOLDEN["pieces"][name]


def test_every_way_to_cut_is_among_llama_cpps() -> None:
    """No entry of the table cuts in a way that the file of llama.cpp's cuts leaves out."""
    compared = {PRETOKENIZERS[name].expressions for name in GOLDEN["pieces"]}

    assert {entry.expressions for entry in PRETOKENIZERS.values()} == compared


@pytest.mark.parametrize("text", [" ", " x", "\n", "1", "a", "A", "!", "x1", "\u0301", "中"])
def test_no_text_takes_quadratic_time(text: str) -> None:
    """Long runs of one thing are cut, losslessly, by every entry."""
    for entry in {entry.expressions: entry for entry in PRETOKENIZERS.values()}.values():
        assert "".join(pieces(entry, text * 5_000)) == text * 5_000


@pytest.mark.slow
@pytest.mark.parametrize("text", [" ", "A"])
def test_a_run_longer_than_oniguruma_steps_back_is_cut(text: str) -> None:
    """Oniguruma gives up after ten million steps back in one match; a run of blanks or capitals needs none."""
    assert pieces(PRETOKENIZERS["tekken"], text * 10_500_000) == [text * 10_500_000]


def test_no_name_is_the_default() -> None:
    """A file that names no pre-tokenizer, or an empty one, has the default one, as with llama.cpp."""
    assert pretokenizer(None) is pretokenizer("") is PRETOKENIZERS["default"]


def test_an_unknown_name_is_refused() -> None:
    """What llama.cpp does not know is an error that names field and value, cut short where it is long."""
    with pytest.raises(UnsupportedTokenizer, match=r"tokenizer\.ggml\.pre.*'gpt-9'") as unknown:
        pretokenizer("gpt-9")
    with pytest.raises(UnsupportedTokenizer, match=r"tokenizer\.ggml\.model") as long:
        tokenizer_kind("x" * 5_000)

    assert unknown.value.key == "tokenizer.ggml.pre"
    assert unknown.value.tokenizer == "gpt-9"
    assert len(str(long.value)) < 300


def test_a_kinds_own_pretokenizer_is_in_the_table() -> None:
    """A kind that fixes its pre-tokenizer is a BPE and names one that exists."""
    fixed = [kind for kind in TOKENIZER_KINDS.values() if kind.pre is not None]

    assert [kind.algorithm for kind in fixed] == [Algorithm.BPE]
    assert all(kind.pre in PRETOKENIZERS for kind in fixed)
