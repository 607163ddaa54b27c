"""What a context keeps for each layer: rows for each cell and states, by the rules of each architecture.

The figures are llama.cpp's rules worked out by hand; tests/placement/test_oracle.py compares them with its answers.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gguf import parse_header
from app.model import read_hyperparameters
from app.model.caches import Caches, Holds, read_caches
from tests.gguf_builder import ARRAY, BOOL, INT32, STRING, UINT32, KeyValue, build

SHAPE = {
    "context_length": 4096,
    "embedding_length": 1024,
    "block_count": 8,
    "attention.head_count": 8,
    "attention.head_count_kv": 2,
}
"""Heads of 128; one layer's keys, and its values, are 256 wide."""


def caches(architecture: str, **changes: int | list[int] | None) -> Caches:
    """Read the caches of a small model; `__` in a name stands for a dot, None takes a key away."""
    values = SHAPE | {name.replace("__", "."): value for name, value in changes.items()}
    pairs: list[KeyValue] = []
    for name, value in values.items():
        key = f"{architecture}.{name}"
        if isinstance(value, list):
            pairs.append((key, ARRAY, (BOOL if value[0] is True or value[0] is False else UINT32, value)))
        elif value is not None:
            pairs.append((key, UINT32, value))
    metadata = parse_header(build(pairs)).metadata
    return read_caches(metadata, architecture, read_hyperparameters(metadata, architecture))


def widths(found: Caches) -> list[list[int]]:
    """List the widths of each layer's rows."""
    return [[rows.width for rows in layer.rows] for layer in found.layers]


def sliding(found: Caches) -> str:
    """Draw the layers: `w` slides a window, `d` sees all, `.` keeps no rows."""
    return "".join("." if not layer.rows else "w" if layer.rows[0].sliding else "d" for layer in found.layers)


def test_grouped_queries_share_keys_and_values() -> None:
    """Keys and values are as wide as the key-value heads, not as the queries."""
    found = caches("llama")

    assert widths(found) == [[256, 256]] * 8
    assert [rows.holds for rows in found.layers[0].rows] == [Holds.KEYS, Holds.VALUES]
    assert (found.window, found.one_type, found.unifiable) == (0, False, True)
    assert (found.flash_attention, caches("grok").flash_attention) == (True, False)


def test_layers_may_have_heads_of_their_own() -> None:
    """An array of heads gives every layer its width; transposed values are as wide as the widest."""
    found = caches("llama", attention__head_count_kv=[1, 2, 4, 8, 1, 2, 4, 8])

    assert widths(found) == [[128 * heads] * 2 for heads in (1, 2, 4, 8, 1, 2, 4, 8)]
    assert {layer.rows[1].transposed_width for layer in found.layers} == {1024}


def test_latent_attention_keeps_one_tensor() -> None:
    """With MLA's key lengths a layer keeps keys alone, and both types must be one; without them it keeps both."""
    mla = {"attention__head_count_kv": 1, "attention__key_length": 576, "attention__value_length": 512}

    found = caches("deepseek2", **mla, attention__key_length_mla=192, attention__value_length_mla=128)

    assert widths(found) == [[576]] * 8
    assert found.one_type
    assert widths(caches("deepseek2", **mla)) == [[576, 512]] * 8


@pytest.mark.parametrize(
    ("architecture", "drawn"),
    [
        ("cohere2moe", "dwwwdwww"),
        ("gemma2", "wdwdwdwd"),
        ("gemma3", "wwwwwdww"),
        ("gemma3n", "wwwwdwww"),
        ("gpt-oss", "wdwdwdwd"),
        ("laguna", "dwwwdwww"),
        ("olmo2", "wwwdwwwd"),
        ("plamo3", "wwwwwwwd"),
        ("smallthinker", "dwwwdwww"),
        ("exaone4", "dddddddd"),  # only the one of 64 layers
        ("phi3", "dddddddd"),  # llama.cpp reads the key and leaves it at that
    ],
)
def test_windows_repeat_in_each_architecture_s_own_way(architecture: str, drawn: str) -> None:
    """The period and the place of the dense layer are the architecture's; most have no window at all."""
    found = caches(architecture, attention__sliding_window=512)

    assert sliding(found) == drawn
    assert bool(found.window) == ("w" in drawn)


def test_the_file_s_pattern_wins() -> None:
    """An array says which layers slide, a number what the period is."""
    listed = caches("gemma3", attention__sliding_window=512, attention__sliding_window_pattern=[1, 0, 0, 0, 1, 1, 0, 0])
    period = caches("gemma3", attention__sliding_window=512, attention__sliding_window_pattern=3)

    assert sliding(listed) == "wdddwwdd"
    assert sliding(period) == "wwdwwdww"


def test_a_window_of_its_own() -> None:
    """Some have a window where the file has none, one has its own whatever the file says, and 0 is no window."""
    assert caches("gemma2").window == 4096
    assert caches("llama4").window == 8192
    assert caches("llama4", attention__sliding_window=0).window == 0
    assert caches("smallthinker", attention__sliding_window=512).window == 4096
    assert sliding(caches("gemma3", attention__sliding_window=0)) == "dddddddd"
    assert sliding(caches("exaone4", block_count=64)) == "wwwd" * 16


def test_windows_have_heads_of_their_own() -> None:
    """A sliding layer's heads may be shorter."""
    found = caches(
        "gemma4",
        attention__sliding_window=512,
        attention__sliding_window_pattern=[1, 0] * 4,
        attention__key_length_swa=64,
        attention__value_length_swa=32,
    )

    assert widths(found)[:2] == [[128, 64], [256, 256]]


def test_later_layers_share_earlier_ones() -> None:
    """Gemma 4's last layers, and Gemma 3n's from the 20th on, have no keys and values of their own."""
    assert sliding(caches("gemma4", attention__shared_kv_layers=3)) == "ddddd..."
    assert sliding(caches("gemma3n", block_count=22, attention__sliding_window=512)) == "wwwwd" * 4 + ".."


def test_drafting_layers_keep_nothing() -> None:
    """NextN layers are counted, and have no rows in a context that does not draft."""
    assert sliding(caches("glm4moe", nextn_predict_layers=1)) == "ddddddd."
    assert sliding(caches("qwen35", nextn_predict_layers=1)) == "...d...."


@pytest.mark.parametrize(
    ("architecture", "changes", "state"),
    [
        ("mamba", {"ssm__conv_kernel": 4, "ssm__inner_size": 512, "ssm__state_size": 16}, 3 * 512 + 16 * 512),
        (
            "mamba2",
            {"ssm__conv_kernel": 4, "ssm__inner_size": 512, "ssm__state_size": 16, "ssm__group_count": 2},
            3 * (512 + 2 * 2 * 16) + 16 * 512,
        ),
        ("rwkv6", {"wkv__head_size": 64}, 2 * 1024 + 64 * 1024),
        ("rwkv6qwen2", {"wkv__head_size": 64, "token_shift_count": 1}, 1024 + 64 * 1024),
    ],
)
def test_recurrent_models_keep_a_state(architecture: str, changes: dict[str, int], state: int) -> None:
    """Every layer keeps what its convolution or token shift needs, and the state; and no rows."""
    found = caches(architecture, **changes)

    assert [(layer.rows, layer.state) for layer in found.layers] == [((), state)] * 8


@pytest.mark.parametrize(
    ("architecture", "changes", "attending", "state"),
    [
        ("lfm2", {"attention__head_count_kv": [0, 0, 2, 0] * 2, "shortconv__l_cache": 3}, "..d...d.", 2 * 1024),
        ("qwen3next", {"ssm__inner_size": 512, "ssm__state_size": 16}, "...d...d", 16 * 512),
        ("minimax-01", {}, ".......d", 128 * 128 * 8),
        (
            "kimi-linear",
            {"attention__head_count_kv": [0, 0, 0, 1] * 2, "kda__head_dim": 64, "ssm__conv_kernel": 4},
            "...d...d",
            3 * 3 * 8 * 64 + 64 * 64 * 8,
        ),
    ],
)
def test_hybrids_attend_in_some_layers(
    architecture: str, changes: dict[str, int | list[int]], attending: str, state: int
) -> None:
    """A layer has rows or a state; which, follows from its heads or an interval."""
    found = caches(architecture, **changes)

    assert sliding(found) == attending
    assert [layer.state for layer in found.layers] == [state if kind == "." else 0 for kind in attending]


def test_nemotron_layers_are_one_thing_each() -> None:
    """A layer is attention, a state or a network, by its heads and its network's width; Falcon H1's are two at once."""
    found = caches(
        "nemotron_h",
        block_count=4,
        attention__head_count_kv=[2, 0, 0, 2],
        feed_forward_length=[0, 0, 64, 64],
        ssm__inner_size=512,
        ssm__state_size=16,
    )

    assert sliding(found) == "d..."
    assert [bool(layer.state) for layer in found.layers] == [False, True, False, False]
    both = caches("falcon-h1", ssm__inner_size=512, ssm__state_size=16)
    assert all(layer.rows and layer.state for layer in both.layers)


def test_an_indexer_has_keys_of_its_own() -> None:
    """Sparse attention keeps a row more for each cell: in all layers, in those listed, or behind the dense ones."""
    mla = {
        "attention__head_count_kv": 1,
        "attention__key_length": 576,
        "attention__key_length_mla": 192,
        "attention__value_length_mla": 128,
        "attention__indexer__key_length": 64,
        "attention__indexer__top_k": 2048,
        "block_count": 4,
    }

    assert widths(caches("deepseek32", **mla)) == [[576, 64]] * 4
    assert widths(caches("hy_v4", **mla, attention__indexer__types=[1, 0, 0, 1])) == [
        [576, 64],
        [576],
        [576],
        [576, 64],
    ]
    assert widths(caches("glm-dsa", **(mla | {"context_length": 1 << 20}))) == [[576, 64]] * 3 + [[576]]
    behind = caches("minimax-m3", block_count=2, leading_dense_block_count=1, attention__indexer__key_length=64)
    assert widths(behind) == [[256, 256], [256, 256, 64, 128]]


def test_groups_of_tokens_have_keys_too() -> None:
    """DeepSeek V4: a window of keys, one key for 4 or 128 tokens, and what gathers the next group."""
    found = caches(
        "deepseek4",
        block_count=3,
        attention__head_count_kv=1,
        attention__sliding_window=128,
        attention__compress_ratios=[0, 4, 128],
        attention__indexer__key_length=64,
    )

    drawn = [[(rows.width, rows.tokens_per_cell) for rows in layer.rows] for layer in found.layers]
    assert drawn == [[(128, 1)], [(128, 1), (128, 4), (64, 4)], [(128, 1), (128, 128)]]
    assert [layer.state for layer in found.layers] == [0, 32 * (128 + 64), 256 * 128]
    assert found.one_type
    assert not found.unifiable


@pytest.mark.parametrize("architecture", ["bert", "modern-bert", "llada", "dream", "gemma-embedding"])
def test_encoders_keep_nothing(architecture: str) -> None:
    """A model that sees all tokens at once needs no memory of them."""
    found = caches(architecture, attention__sliding_window=128)

    assert [(layer.rows, layer.state) for layer in found.layers] == [((), 0)] * 8


def test_loops_keep_rows_for_each_round() -> None:
    """A looped model attends with each block once per loop, a router has one head behind all blocks."""
    assert widths(caches("nanbeige", num_loops=3)) == [[256, 256]] * 24
    assert widths(caches("graniteswitch")) == [[256, 256]] * 8 + [[128, 128]]


def test_boolean_patterns_count() -> None:
    """Converters write the pattern as booleans or as integers."""
    found = caches("mimo2", attention__sliding_window=128, attention__sliding_window_pattern=[False, True, True])

    assert sliding(found) == "dwwddddd"


_NAMES = [
    "block_count", "embedding_length", "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.sliding_window", "attention.sliding_window_pattern", "attention.recurrent_layers", "num_loops",
    "attention.indexer.types", "attention.compress_ratios", "nextn_predict_layers", "feed_forward_length",
    "ssm.conv_kernel", "full_attention_interval", "attention.shared_kv_layers",
]  # fmt: skip
_VALUES = st.one_of(
    st.tuples(st.just(UINT32), st.integers(0, 2**32 - 1)),
    st.tuples(st.just(INT32), st.integers(-(2**31), 40)),
    st.tuples(st.just(STRING), st.text(max_size=4)),
    st.tuples(st.just(ARRAY), st.tuples(st.just(INT32), st.lists(st.integers(-2, 600), max_size=40))),
    st.tuples(st.just(ARRAY), st.tuples(st.just(STRING), st.lists(st.text(max_size=4), max_size=4))),
)


@given(
    architecture=st.sampled_from(
        ["llama", "gemma3", "qwen35", "nemotron_h", "deepseek4", "glm-dsa", "nanbeige", "jamba"]
    ),
    values=st.dictionaries(st.sampled_from(_NAMES), _VALUES),
)
def test_no_metadata_is_too_strange(architecture: str, values: dict[str, tuple[int, object]]) -> None:
    """Whatever the keys hold, reading ends, and widths and states are never negative."""
    pairs: list[KeyValue] = [(f"{architecture}.{name}", kind, value) for name, (kind, value) in values.items()]
    metadata = parse_header(build(pairs)).metadata

    found = read_caches(metadata, architecture, read_hyperparameters(metadata, architecture))

    assert all(rows.width >= 0 for layer in found.layers for rows in layer.rows)
    assert all(layer.state >= 0 for layer in found.layers)
