"""Tokens and text over HTTP: the ids that llama.cpp has, of models that are loaded or not."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.server import DEMO, TINY, Json, answer, load, refusal, serving
from tests.gguf_builder import ARRAY, STRING, KeyValue, build
from tests.tokenizing.vocabularies import NORMAL, gpt2, llama

FIXTURES = (Path(__file__).parents[2] / "../shared/fixtures/vocab").resolve()
GOLDEN: Json = json.loads((Path(__file__).parents[1] / "tokenizing/llamacpp_ids.json").read_text(encoding="utf-8"))
SEPARATOR = "\n__ggml_vocab_test__\n"
QUICK = ("bert-bge", "deepseek-coder", "llama-spm", "phi-3")
EXPECTED = sorted(path.name.removesuffix(".gguf.out") for path in FIXTURES.glob("*.gguf.out"))
GREETING = {"content": "Hello <|im_end|>wörld\0🙂"}


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service of files that hold a vocabulary and no tensors: the fixtures, if there are any, and some of ours."""
    directory = tmp_path_factory.mktemp("vocabularies")
    odd: dict[str, list[KeyValue]] = {
        "bare": [("general.architecture", STRING, "llama")],
        "duplicates": gpt2(["a", "a"], []),
        "unknown": [("tokenizer.ggml.model", STRING, "gpt-9"), *gpt2(["a", "b"], [])[1:]],
        "cut": [*gpt2(["a"], []), ("tokenizer.ggml.pre", STRING, "no such cut")],
        "wrong": [
            ("tokenizer.ggml.model", STRING, "llama"),
            ("tokenizer.ggml.tokens", ARRAY, (STRING, [b"\xff", "b\0"])),
        ],
        "infinite": llama(("a", float("inf"), NORMAL)),
    }
    for name, pairs in odd.items():
        (directory / f"{name}.gguf").write_bytes(build(pairs))
    directories = (directory, FIXTURES) if FIXTURES.is_dir() else (directory,)
    with serving(tmp_path_factory.mktemp("state"), models=directories) as client:
        yield client


def expected(name: str) -> list[tuple[str, list[int]]]:
    """llama.cpp's ids for each of a fixture's texts."""
    texts = (FIXTURES / f"{name}.gguf.inp").read_bytes().decode().split(SEPARATOR)
    lines = (FIXTURES / f"{name}.gguf.out").read_text(encoding="utf-8").split("\n")
    return [(text, [int(id_) for id_ in line.split()]) for text, line in zip(texts, lines, strict=True)]


def tokenize(client: httpx.Client, model: str, content: str, **more: bool) -> list[int]:
    """The ids of a text."""
    found: list[int] = answer(client.post(f"{model}/tokenize", json={"content": content, **more}))["tokens"]
    return found


def detokenize(client: httpx.Client, model: str, tokens: list[int]) -> str:
    """The text of these ids."""
    text: str = answer(client.post(f"{model}/detokenize", json={"tokens": tokens}))["content"]
    return text


@pytest.mark.skipif(not EXPECTED, reason="no shared fixtures beside the checkout")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name.removeprefix("ggml-vocab-") in QUICK else pytest.mark.slow)
        for name in EXPECTED
    ],
)
def test_ids_are_llama_cpps(vocabularies: httpx.Client, name: str) -> None:
    """Every text of every fixture, with and without special tokens, which none of them holds; and back, if it can."""
    model = f"/v1/models/{name}"
    cleans = name.removeprefix("ggml-vocab-") in ("bert-bge", "falcon", "gpt-2", "llama-bpe")

    for text, ids in expected(name):
        assert tokenize(vocabularies, model, text) == ids
        assert tokenize(vocabularies, model, text, parse_special=False) == ids
        if not cleans:  # words are normalised, or spaces taken out before punctuation
            assert detokenize(vocabularies, model, ids) == text


def test_the_demo_models_ids_are_llama_cpps(client: httpx.Client) -> None:
    """Random texts of all scripts, tokens and special tokens; and the text that llama.cpp makes of the ids."""
    for row in GOLDEN["rows"]:
        special = {name: row[name] for name in ("add_special", "parse_special")}
        assert tokenize(client, DEMO, row["content"], **special) == row["tokens"]
        assert detokenize(client, DEMO, row["tokens"]) == row["detokenized"]


def test_the_demo_models_tokens_come_and_go(client: httpx.Client) -> None:
    """Special tokens, parts of characters, NUL; loaded or not, the same."""
    ids = tokenize(client, DEMO, GREETING["content"])

    assert ids[:2] == [19556, 216]
    assert 2 in ids
    assert detokenize(client, DEMO, ids) == GREETING["content"]
    assert 2 not in tokenize(client, DEMO, GREETING["content"], parse_special=False)
    load(client)
    assert tokenize(client, DEMO, GREETING["content"]) == ids


def test_pieces_tell_what_tokens_stand_for(client: httpx.Client) -> None:
    """Text, or the bytes of a part of a character; together they are the whole text."""
    pieces = answer(client.post(f"{DEMO}/tokenize", json={**GREETING, "with_pieces": True}))["tokens"]
    whole = b"".join(p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces)

    assert whole.decode() == GREETING["content"]
    assert {"id": 2, "piece": "<|im_end|>"} in pieces
    assert any(isinstance(piece["piece"], list) for piece in pieces)


def test_the_vocabulary_is_a_list_like_others(client: httpx.Client) -> None:
    """By id, in parts; `q` finds tokens by their text or by what that stands for."""
    part = answer(client.get(f"{DEMO}/vocabulary?offset=19555&limit=2"))
    found = answer(client.get(f"{DEMO}/vocabulary", params={"q": "<|im_"}))
    spaced = answer(client.get(f"{DEMO}/vocabulary", params={"q": " world", "limit": 1}))

    assert (part["object"], part["total"], [token["id"] for token in part["data"]]) == ("list", 49152, [19555, 19556])
    hello = {"id": 19556, "text": "Hello", "piece": "Hello", "type": "normal", "score": None, "special": []}
    assert part["data"][1] == hello
    assert [token["text"] for token in found["data"]] == ["<|im_start|>", "<|im_end|>"]
    assert {token["type"] for token in found["data"]} == {"control"}
    assert found["data"][1]["special"] == ["eos", "pad"]
    assert spaced["data"][0]["text"] == "Ġworld"
    assert answer(client.get(f"{DEMO}/vocabulary?offset={2**63 - 1}")) == {"object": "list", "data": [], "total": 49152}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("tokenize", b'{"content": "\\ud800"}', 400, None),
        ("tokenize", b'{"content": "\xff"}', 400, None),
        ("tokenize", b"{}", 422, "content"),
        ("tokenize", b'{"content": ["a"]}', 422, "content"),
        ("tokenize", b'{"content": "a", "add_special": 1}', 422, "add_special"),
        ("tokenize", b'{"content": "a", "special": true}', 422, "special"),
        ("tokenize", b'{"content": "%s"}' % (b"x" * 10_000_000), 413, None),
        ("detokenize", b'{"tokens": [1, -1]}', 422, "tokens[1]"),
        ("detokenize", b'{"tokens": [49152]}', 422, "tokens[0]"),
        ("detokenize", b'{"tokens": [9223372036854775808]}', 422, "tokens[0]"),
        ("detokenize", b'{"tokens": [true]}', 422, "tokens[0]"),
        ("detokenize", b'{"tokens": 1}', 422, "tokens"),
        ("detokenize", b"", 422, "body"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said(client: httpx.Client, path: str, body: bytes, status: int, param: str | None) -> None:
    """Lone surrogates, 10 MB of text, ids that are none: an error in words that names the field."""
    response = client.post(f"{DEMO}/{path}", content=body, headers={"Content-Type": "application/json"})

    assert refusal(response, status)["param"] == param


def test_a_long_text_is_tokenized(client: httpx.Client) -> None:
    """A megabyte of one word, or of words."""
    for text in ("x" * 1_000_000, "wörd, " * 140_000):
        assert len(tokenize(client, DEMO, text)) > 100_000


def test_a_vocabulary_that_cannot_be_used_says_why(vocabularies: httpx.Client) -> None:
    """422 with the key at fault, and the kind where that is not known; the tokens are listed all the same."""
    faults = {
        name: refusal(vocabularies.post(f"/v1/models/{name}/tokenize", json={"content": "a"}), 422)
        for name in ("bare", "duplicates", "unknown", "cut", "wrong", "infinite")
    }

    assert {name: (fault["code"], fault["key"].removeprefix("tokenizer.ggml.")) for name, fault in faults.items()} == {
        "bare": ("unsupported_tokenizer", "model"),
        "duplicates": ("invalid_vocabulary", "tokens"),
        "unknown": ("unsupported_tokenizer", "model"),
        "cut": ("unsupported_tokenizer", "pre"),
        "wrong": ("invalid_vocabulary", "tokens"),
        "infinite": ("invalid_vocabulary", "scores"),
    }
    assert (faults["unknown"]["tokenizer"], faults["cut"]["tokenizer"]) == ("gpt-9", "no such cut")
    listed = {name: answer(vocabularies.get(f"/v1/models/{name}/vocabulary"))["data"] for name in faults}
    assert [(token["text"], token["piece"]) for token in listed["unknown"]] == [("a", None), ("b", None)]
    assert [token["text"] for token in listed["wrong"]] == ["\ufffd", "b\0"]
    assert (listed["bare"], listed["infinite"][-1]["score"]) == ([], None)


def test_a_model_that_cannot_be_read_has_no_tokens(client: httpx.Client) -> None:
    """`invalid_model`, and 404 for one that is not there."""
    for path, body in (("tokenize", {"content": "a"}), ("detokenize", {"tokens": []})):
        assert refusal(client.post(f"/v1/models/truncated/{path}", json=body), 422)["code"] == "invalid_model"
        assert refusal(client.post(f"/v1/models/none/{path}", json=body), 404)["code"] == "model_not_found"
    assert refusal(client.get("/v1/models/truncated/vocabulary"), 422)["code"] == "invalid_model"


def test_a_model_is_loaded_whatever_its_vocabulary_is(client: httpx.Client) -> None:
    """Weights are of use without one: a vocabulary without bytes is an error only for a text that needs them."""
    load(client, TINY)

    assert answer(client.get(f"{TINY}/vocabulary?limit=1"))["total"] == 96
    assert "<0x48>" in refusal(client.post(f"{TINY}/tokenize", json=GREETING), 422)["message"]


def test_a_file_that_was_replaced_has_another_vocabulary(tmp_path: Path) -> None:
    """As soon as it is scanned; until then what was kept is served."""
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "one.gguf"
    file.write_bytes(build(gpt2(["a", "b"], [])))
    with serving(tmp_path / "state", models=(tmp_path / "models",)) as client:
        assert tokenize(client, "/v1/models/one", "ab") == [0, 1]
        (tmp_path / "other").write_bytes(build(gpt2(["b", "a"], [])))
        shutil.move(tmp_path / "other", file)
        assert tokenize(client, "/v1/models/one", "ab") == [0, 1]
        answer(client.post("/v1/models/rescan"))
        assert tokenize(client, "/v1/models/one", "ab") == [1, 0]
        file.write_bytes(file.read_bytes() + b"\0")
        assert tokenize(client, "/v1/models/one", "ab") == [1, 0]


def test_fifty_at_once_have_the_same_answer(client: httpx.Client) -> None:
    """Nobody is refused, and nobody waits for more than one vocabulary to be made."""

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=60) as many:
            return await asyncio.gather(*(many.post(f"{DEMO}/tokenize", json=GREETING) for _ in range(50)))

    assert {response.text for response in asyncio.run(ask())} == {client.post(f"{DEMO}/tokenize", json=GREETING).text}
