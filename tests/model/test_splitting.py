"""Pre-tokenizers cut text where llama.cpp's do: against its own cuts, and its ids for the vocabulary fixtures."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gguf import GGUFReader
from tokenizers import Tokenizer
from tokenizers.models import BPE

from app.errors import InvalidValue
from app.model.pretokenizers import PRETOKENIZERS, PreTokenizer, pretokenizer
from app.model.splitting import splitter
from app.model.tokenizer_kinds import TOKENIZER_KINDS, Algorithm, tokenizer_kind

# Lengths of the pieces, in code points, of each text by each way to cut; `source` in the file tells who cut them.
GOLDEN = json.loads((Path(__file__).parent / "pretokenizer_splits.json").read_text(encoding="utf-8"))
VOCABULARIES = (Path(__file__).parents[2] / "../shared/fixtures/vocab").resolve()
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("falcon", "gpt-2", "llama-bpe", "qwen2")]
SEPARATOR = "\n__ggml_vocab_test__\n"


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


@pytest.mark.parametrize("name", ["deepseek-coder", *SLOW])
def test_ids_are_llama_cpps(name: str) -> None:
    """A BPE of the file's own merges gives llama.cpp's ids for each text that comes with the fixture."""
    file = VOCABULARIES / f"ggml-vocab-{name}.gguf"
    if not file.exists():
        pytest.skip("no shared fixtures beside the checkout")
    fields = GGUFReader(file).fields
    vocabulary = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"].contents())}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    entry = pretokenizer(fields["tokenizer.ggml.pre"].contents())
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=entry.ignore_merges))
    tokenizer.pre_tokenizer = splitter(entry)

    texts = file.with_suffix(".gguf.inp").read_bytes().decode().split(SEPARATOR)
    expected = [line.split() for line in file.with_suffix(".gguf.out").read_text(encoding="utf-8").split("\n")]

    assert [[str(i) for i in tokenizer.encode(text).ids] for text in texts] == expected


def test_no_name_is_the_default() -> None:
    """A file that names no pre-tokenizer, or an empty one, has the default one, as with llama.cpp."""
    assert pretokenizer(None) is pretokenizer("") is PRETOKENIZERS["default"]


def test_an_unknown_name_is_refused() -> None:
    """What llama.cpp does not know is an error that names field and value, cut short where it is long."""
    with pytest.raises(InvalidValue, match=r"tokenizer\.ggml\.pre.*'gpt-9'") as unknown:
        pretokenizer("gpt-9")
    with pytest.raises(InvalidValue, match=r"tokenizer\.ggml\.model") as long:
        tokenizer_kind("x" * 5_000)

    assert unknown.value.param == "tokenizer.ggml.pre"
    assert unknown.value.facts["value"] == "gpt-9"
    assert len(str(long.value)) < 300


def test_a_kinds_own_pretokenizer_is_in_the_table() -> None:
    """A kind that fixes its pre-tokenizer is a BPE and names one that exists."""
    fixed = [kind for kind in TOKENIZER_KINDS.values() if kind.pre is not None]

    assert [kind.algorithm for kind in fixed] == [Algorithm.BPE]
    assert all(kind.pre in PRETOKENIZERS for kind in fixed)
