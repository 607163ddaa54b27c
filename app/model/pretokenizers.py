"""How a BPE tokenizer cuts text before it merges: a table of every name that `tokenizer.ggml.pre` can hold.

Adding one is a line in `PRETOKENIZERS`. The expressions stand in `pretokenizer_expressions.py`, and `app.tokenizing`
makes an entry executable.

Source: `llama_vocab::impl::load` and `llm_tokenizer_bpe` in src/llama-vocab.cpp of llama.cpp 0c1e57098, as packed in
llama-cpp-python 0.3.36.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from app.errors import UnsupportedTokenizer
from app.model import pretokenizer_expressions as cut


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """What llama.cpp decides by the name. Where the file itself says `add_bos_token` or `add_sep_token`, that holds."""

    expressions: tuple[str, ...]
    """Applied in order, each within the pieces that the ones before it left. What lies between matches is a piece."""
    ignore_merges: bool = False
    """A piece that is a token is that token, whatever the merges say."""
    add_bos: bool = False
    add_sep: bool = False
    always_add_bos: bool = False
    """Even where the file says not to."""
    default_bos: bool = True
    """Whether the tokenizer's own default for the beginning-of-sequence token holds where the file names none."""
    clean_spaces: bool = True
    """Detokenizing takes out the spaces before punctuation and `'s`."""
    escape_spaces: bool = False
    """Each space becomes U+2581 before the text is cut."""
    byte_level: bool = True
    """Tokens are written in GPT-2's alphabet of bytes; if not, in UTF-8, and `<0x0A>` is a byte that has no token."""
    whole_newlines: bool = False
    """A run of newlines that is a token is that token, whatever the merges say."""
    needs_merges: bool = True
    """A file without `tokenizer.ggml.merges` is an error."""
    lower_case: bool = True
    """Whether a `whitespace` tokenizer lower-cases text first, where the file does not say. No other kind asks."""


_LLAMA3: Final = PreTokenizer((cut.LLAMA3,), ignore_merges=True, add_bos=True)
_GPT2: Final = PreTokenizer((cut.GPT2,))
_ROBERTA: Final = PreTokenizer((cut.GPT2,), add_sep=True)
_DIGITS_APART: Final = PreTokenizer((cut.DIGIT, cut.GPT2))
_GPT4O: Final = PreTokenizer((cut.GPT4O,), clean_spaces=False)
_QWEN2: Final = PreTokenizer((cut.QWEN2,), clean_spaces=False)
_GLM4: Final = PreTokenizer((cut.LLAMA3,), ignore_merges=True, default_bos=False)
_GEMMA4: Final = PreTokenizer(
    (cut.LINES_APART,), always_add_bos=True, escape_spaces=True, byte_level=False, whole_newlines=True
)
_DEEPSEEK3: Final = PreTokenizer((cut.UP_TO_THREE_DIGITS, cut.DEEPSEEK3_SCRIPTS, cut.DEEPSEEK3), clean_spaces=False)
_BAILINGMOE: Final = PreTokenizer((cut.BAILINGMOE,), clean_spaces=False)
_TINY_AYA: Final = PreTokenizer((cut.THOUSANDS, cut.TINY_AYA), clean_spaces=False)

PRETOKENIZERS: Final[Mapping[str, PreTokenizer]] = MappingProxyType(
    {
        "default": PreTokenizer((cut.DEFAULT_PUNCTUATION, cut.GPT2, cut.DIGITS, cut.THREE_ASCII_DIGITS)),
        "a.x-4.0": _GPT2,
        "afmoe": PreTokenizer((cut.THOUSANDS, cut.AFMOE_SCRIPTS, cut.DEEPSEEK3), clean_spaces=False),
        "bailingmoe": _BAILINGMOE,
        "bailingmoe2": _BAILINGMOE,
        "bloom": PreTokenizer((cut.BLOOM,)),
        "chameleon": PreTokenizer(
            (
                cut.CHAMELEON_SENTINEL,
                cut.CHAMELEON_IMAGE,
                cut.CHAMELEON_BLANK,
                cut.DIGIT,
                cut.CHAMELEON_PUNCTUATION,
                cut.GPT2,
            ),
            add_bos=True,
            clean_spaces=False,
        ),
        "chatglm-bpe": PreTokenizer((cut.LLAMA3,), default_bos=False),
        "codeshell": _DIGITS_APART,
        "cohere2moe": _TINY_AYA,
        "command-r": PreTokenizer((cut.DIGIT, cut.GPT2), clean_spaces=False),
        "dbrx": PreTokenizer((cut.LLAMA3,)),
        "deepseek-coder": PreTokenizer(
            (
                cut.LINE_END,
                cut.DEEPSEEK_CODER_WORD,
                cut.DEEPSEEK_CODER_PUNCTUATION,
                cut.DEEPSEEK_EAST_ASIAN,
                cut.DIGIT,
            ),
            clean_spaces=False,
        ),
        "deepseek-llm": PreTokenizer(
            (
                cut.LINE_END,
                cut.DEEPSEEK_WORD,
                cut.DEEPSEEK_PUNCTUATION,
                cut.DEEPSEEK_BLANKS_AT_THE_END,
                cut.DEEPSEEK_EAST_ASIAN,
                cut.DIGITS,
            ),
            clean_spaces=False,
        ),
        "deepseek-r1-qwen": _QWEN2,
        "deepseek-v3": _DEEPSEEK3,
        "exaone": _DIGITS_APART,
        "exaone-moe": PreTokenizer((cut.EXAONE_MOE,)),
        "exaone4": _GPT2,
        "f2llmv2": _QWEN2,
        "falcon": PreTokenizer((cut.FALCON_PUNCTUATION, cut.GPT2, cut.THREE_ASCII_DIGITS)),
        "falcon-h1": _LLAMA3,
        "falcon3": _LLAMA3,
        "gemma4": _GEMMA4,
        "gigachat": _GPT2,
        "glm4": _GLM4,
        "glm5": _GLM4,
        "gpt-2": _GPT2,
        "gpt-4o": _GPT4O,
        "gpt3-finnish": PreTokenizer((cut.BLOOM,)),
        "granite-docling": PreTokenizer((cut.GPT2,), clean_spaces=False),
        "granite-embed-multi-311m": _GEMMA4,
        "granite-embed-multi-97m": PreTokenizer((cut.GRANITE_EMBEDDING,), ignore_merges=True, clean_spaces=False),
        "grok-2": _QWEN2,
        "hunyuan": _QWEN2,
        "hunyuan-dense": _DEEPSEEK3,
        "hy_v4": _DEEPSEEK3,
        "jais": _GPT2,
        "jais-2": PreTokenizer((cut.JAIS2,)),
        "jina-de": _GPT2,
        "jina-es": _GPT2,
        "jina-v1-en": _ROBERTA,
        "jina-v2-code": _ROBERTA,
        "jina-v2-de": _GPT2,
        "jina-v2-es": _GPT2,
        "jina-v5-nano": _LLAMA3,
        "joyai-llm": _DEEPSEEK3,
        "kanana2": _GPT4O,
        "kimi-k2": PreTokenizer((cut.KIMI_K2,), clean_spaces=False, needs_merges=False),
        "kormo": _QWEN2,
        "laguna": PreTokenizer((cut.LINES_APART, cut.QWEN2), clean_spaces=False),
        "lfm2": _LLAMA3,
        "llada-moe": _BAILINGMOE,
        "llama-bpe": _LLAMA3,
        "llama-v3": _LLAMA3,
        "llama3": _LLAMA3,
        "llama4": _GPT4O,
        "megrez": PreTokenizer((cut.QWEN2,)),
        "mellum": _GPT2,
        "mellum2": _DIGITS_APART,
        "midm-2.0": _LLAMA3,
        "minerva-7b": _DIGITS_APART,
        "minicpm5": PreTokenizer((cut.UP_TO_THREE_DIGITS, cut.MINICPM5), ignore_merges=True),
        "minimax-m2": _GPT4O,
        "modern-bert": _GPT2,
        "mpt": _GPT2,
        "olmo": _GPT2,
        "phi-2": _GPT2,
        "pixtral": _LLAMA3,
        "poro-chat": PreTokenizer((cut.BLOOM,), clean_spaces=False),
        "qwen2": _QWEN2,
        "qwen35": PreTokenizer((cut.QWEN35,), clean_spaces=False),
        "refact": _DIGITS_APART,
        "roberta-bpe": _ROBERTA,
        "sarvam-moe": PreTokenizer((cut.LINES_APART,), clean_spaces=False, escape_spaces=True, byte_level=False),
        "seed-coder": PreTokenizer((cut.SEED_CODER,), clean_spaces=False),
        "smaug-bpe": PreTokenizer((cut.LLAMA3,)),
        "smollm": PreTokenizer((cut.DIGIT, cut.GPT2), clean_spaces=False),
        "solar-open": _QWEN2,
        "spark2_5": PreTokenizer(
            (cut.UP_TO_THREE_DIGITS, cut.DEEPSEEK3_SCRIPTS, cut.SPARK, cut.DIGIT), clean_spaces=False
        ),
        "stablelm2": PreTokenizer((cut.QWEN2,)),
        "starcoder": _DIGITS_APART,
        "superbpe": PreTokenizer((cut.DIGITS, cut.GROUPS_OF_THOUSANDS), clean_spaces=False),
        "talkie": _GPT4O,
        "tekken": PreTokenizer((cut.TEKKEN,), ignore_merges=True, add_bos=True, clean_spaces=False),
        "tiny_aya": _TINY_AYA,
        "trillion": PreTokenizer((cut.GPT2,), clean_spaces=False),
        "ufakzeka": PreTokenizer((cut.UFAKZEKA,), clean_spaces=False),
        "viking": PreTokenizer((cut.BLOOM, cut.DIGIT), clean_spaces=False),
        "whitespace": PreTokenizer((cut.NOT_BLANK,), byte_level=False, lower_case=False),
        "youtu": PreTokenizer((cut.YOUTU_SCRIPTS, cut.YOUTU), ignore_merges=True, clean_spaces=False),
    }
)
"""By name; a file that names none has the first. Those of one family share an entry."""


def pretokenizer(name: str | None) -> PreTokenizer:
    """Find the entry for what `tokenizer.ggml.pre` holds; None, or nothing in it, is the default.

    Raises `UnsupportedTokenizer` for a name that llama.cpp does not know either.
    """
    found = PRETOKENIZERS.get(name or "default")
    if found is None:
        shown = (name or "")[:200]
        raise UnsupportedTokenizer(f"no pre-tokenizer {shown!r} is known", key="tokenizer.ggml.pre", tokenizer=shown)
    return found
