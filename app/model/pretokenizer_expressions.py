r"""The regular expressions that cut text before a BPE tokenizer merges, by the model that brought them.

Oniguruma's dialect, with llama.cpp's meaning, which is not always what it writes: it runs most of its expressions
over text in which every character beyond ASCII stands for its class (letter, number, mark, punctuation, symbol, blank
or none of them), and does others by hand. There `\p{Lu}` is any letter, and a class that names a blank beyond ASCII
does not match it; here both are written as they work. `app.tokenizing.splitting` adds what is to be said of each `\p`.

Source: `llm_tokenizer_bpe` in src/llama-vocab.cpp and `unicode_regex_split` in src/unicode.cpp of llama.cpp 0c1e57098,
as packed in llama-cpp-python 0.3.36.
"""

from typing import Final


def _either(*alternatives: str) -> str:
    return "|".join(alternatives)


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_SUFFIX: Final = r"'(?:[stmd]|re|ve|ll)"
_SUFFIX_IN_ANY_CASE: Final = r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
_WORD: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_WORD_WITH_MARKS: Final = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_OTHERS: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_OTHERS_AND_SLASHES: Final = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_LINES: Final = r"(?:[^\S\r\n]*+[\r\n]++)++"  # all of a run of blanks up to its last line end
# Capitals, then small letters; letters beyond ASCII are both. Possessive, so that no long text is gone back over.
_CASED: Final = r"[^\r\n\p{L}\p{N}]?(?:[\p{L}&&[^a-z]]*+[a-z][\p{L}&&[^A-Z]]*+|(?:[A-Z]*+[\p{L}&&[^A-Za-z]]++)++)"
_CAPITALS: Final = r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]++"
_BLANKS: Final = r"\s+(?!\S)|\s+"  # the last one before a word is left to the word

# Not Unicode's property: what llama.cpp's unicode_cpt_is_han takes for it.
_HAN: Final = (
    r"\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2EBEF}\x{2F800}-\x{2FA1F}"
)
_HAN_AND_KANA: Final = r"[\x{3040}-\x{30FF}\x{4E00}-\x{9FA5}]+"

DIGIT: Final = r"\p{N}"
UP_TO_THREE_DIGITS: Final = r"\p{N}{1,3}"
DIGITS: Final = r"\p{N}+"
THREE_ASCII_DIGITS: Final = r"[0-9][0-9][0-9]"
LINE_END: Final = r"[\r\n]"
LINES_APART: Final = r"[^\n]+|\n+"
NOT_BLANK: Final = r"\S+"

# Groups of three from the right, as thousands are written; the first of a number brings along all that stands before
# it. A later group is known by the digit before it: to look ahead for each would take quadratic time, and so would to
# try, from each character of a text without digits, whether there is one.
THOUSANDS: Final = r"(?<=\p{N})\p{N}{3}|[^\p{N}]*+(?:\p{N}{1,3}(?=(?:\p{N}{3})*+(?!\p{N}))|\z)"

# Cut before each group of three ASCII digits, from the right, and nowhere else. The same care: a piece is a group, if
# one begins here, then all that has no group, then the digits of the next number that are before its first group.
_BEFORE_GROUPS: Final = r"[0-9]{1,2}(?=(?:[0-9]{3})++(?![0-9]))"
GROUPS_OF_THOUSANDS: Final = (
    r"(?:(?:(?<=[0-9])|(?!" + _BEFORE_GROUPS + r"))[0-9]{3})?+"
    r"(?:[^0-9]|[0-9]{1,2}(?![0-9]))*+"
    r"(?:(?<![0-9])" + _BEFORE_GROUPS + r")?"
)

# ── whole words ──────────────────────────────────────────────────────────────────────────────────────────────────────

GPT2: Final = _either(_SUFFIX, r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+", _BLANKS)
LLAMA3: Final = _either(_SUFFIX_IN_ANY_CASE, _WORD, r"\p{N}{1,3}", _OTHERS, _LINES, _BLANKS)
QWEN2: Final = _either(_SUFFIX_IN_ANY_CASE, _WORD, r"\p{N}", _OTHERS, _LINES, _BLANKS)
UFAKZEKA: Final = _either(_WORD, r"\p{N}", _OTHERS, _LINES, _BLANKS)
BAILINGMOE: Final = _either(_SUFFIX_IN_ANY_CASE, _WORD, r"\p{N}", _OTHERS, _LINES, _BLANKS)
MINICPM5: Final = _either(_SUFFIX_IN_ANY_CASE, _WORD, r"\p{N}+", _OTHERS, _LINES, _BLANKS)
SEED_CODER: Final = _either(_SUFFIX_IN_ANY_CASE, _WORD, r"\p{N}", r" ?[^\s\p{L}\p{N}\r\n]+", _LINES, _BLANKS)
JAIS2: Final = _either(
    _SUFFIX_IN_ANY_CASE,
    _WORD,
    r"\p{N}{1,3}",
    _OTHERS,
    _LINES,
    *(rf"\s{{{blanks}}}(?!\S)" for blanks in (512, 256, 128, 64, 32, 16, 8, 4)),
    r"\s{1,2}(?!\S)",
    r"\s",
)
QWEN35: Final = _either(
    _SUFFIX_IN_ANY_CASE, _WORD_WITH_MARKS, r"\p{N}", r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", _LINES, _BLANKS
)
EXAONE_MOE: Final = _either(
    _SUFFIX_IN_ANY_CASE,
    r"[^\r\n\p{L}\p{N}]?\p{L}(?:[\p{L}\p{M}]++| (?=\p{L}))*+",
    r"\p{N}",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]?",
    _LINES,
    _BLANKS,
)
TEKKEN: Final = _either(
    _CASED,
    _CAPITALS,
    r"\p{N}",
    _OTHERS_AND_SLASHES,
    _LINES,
    _BLANKS,
)
GPT4O: Final = _either(
    _CASED + "(?:" + _SUFFIX_IN_ANY_CASE + ")?",
    _CAPITALS + "(?:" + _SUFFIX_IN_ANY_CASE + ")?",
    r"\p{N}{1,3}",
    _OTHERS_AND_SLASHES,
    _LINES,
    _BLANKS,
)
GRANITE_EMBEDDING: Final = GPT4O.replace(r"[\p{L}&&", r"[\p{L}\p{M}&&")
TINY_AYA: Final = _either(
    _WORD_WITH_MARKS + "(?:" + _SUFFIX_IN_ANY_CASE + ")?", r"\p{N}{1,3}", _OTHERS_AND_SLASHES, _LINES, _BLANKS
)
YOUTU: Final = _either(
    _WORD_WITH_MARKS + "(?:" + _SUFFIX_IN_ANY_CASE + ")?", r"\p{N}", _OTHERS_AND_SLASHES, _LINES, _BLANKS
)
YOUTU_SCRIPTS: Final = _either(
    r"[\x{3131}-\x{318E}\x{AC00}-\x{D7A3}]+",
    r"[\x{2014}\x{2018}\x{2019}\x{201C}\x{201D}\x{2026}\x{3001}-\x{303F}\x{FE30}-\x{FE4F}"
    r"\x{FF01}\x{FF0C}\x{FF1A}\x{FF1B}]+",
    r"[\x{3105}-\x{312F}]+",
    _HAN_AND_KANA,
)
KIMI_K2: Final = _either(
    "[" + _HAN + "]+",
    r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^" + _HAN + "]]+(?:" + _SUFFIX_IN_ANY_CASE + ")?",
    r"\p{N}{1,3}",
    _OTHERS,
    _LINES,
    _BLANKS,
)

# ── in several steps ─────────────────────────────────────────────────────────────────────────────────────────────────

DEEPSEEK3_SCRIPTS: Final = _HAN_AND_KANA
DEEPSEEK3: Final = _either(
    r"[!-/:-@\[-`{-~][A-Za-z]+",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r" ?[\p{P}\p{S}]+[\r\n]*",
    _LINES,
    _BLANKS,
)
SPARK: Final = _either(
    r"[!-/:-@\[-`{-~][A-Za-z]+",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r" ?[\p{P}\p{S}]+",
    r"[\r\n]",
    _BLANKS,
)
# The last range but one is as wide as llama.cpp has it: its source holds U+8C48 where U+F900 was meant.
AFMOE_SCRIPTS: Final = (
    r"[\x{E40}-\x{EFF}\x{1000}-\x{109F}\x{1100}-\x{11FF}\x{1780}-\x{17FF}\x{2F00}-\x{2FDF}\x{3040}-\x{30FF}"
    r"\x{3400}-\x{4DBF}\x{4E00}-\x{FAFF}\x{FF65}-\x{FF9F}]+"
)
DEEPSEEK_EAST_ASIAN: Final = r"[[\x{800}-\x{9FA5}\x{AC00}-\x{D7FF}]&&\S]+"
DEEPSEEK_CODER_WORD: Final = r"\s?\p{L}+"
DEEPSEEK_CODER_PUNCTUATION: Final = r"\s?\p{P}+"
DEEPSEEK_PUNCTUATION: Final = r"\s?[!-/:-~\x{2018}-\x{201F}\x{3001}\x{3002}\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}]+"
DEEPSEEK_BLANKS_AT_THE_END: Final = r"\s+\z"
DEEPSEEK_WORD: Final = (
    r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}"
    r"\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}"
    r"\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}"
    r"\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}"
    r"\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}"
    r"\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}"
    r"\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}"
    r"\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}"
    r"\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}"
    r"\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}"
    r"\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}"
    r"\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+"
)
BLOOM: Final = r" ?[^(\s|.,!?\x{60C}\x{6D4}\x{964}\x{2026}\x{3001}\x{3002}\x{FF0C})]+"
DEFAULT_PUNCTUATION: Final = r"[\p{P}$+<=>^~|]+"
FALCON_PUNCTUATION: Final = r"[\p{P}$+<=>^~|`]+"
CHAMELEON_SENTINEL: Final = r"<sentinel:[0-9]+>"
CHAMELEON_IMAGE: Final = r"IMGIMG[A-I]{1,4}Z"
CHAMELEON_BLANK: Final = r"[\t\n]|    |  "
CHAMELEON_PUNCTUATION: Final = r"[\p{P}!-/:-@\[-`{-~]"
