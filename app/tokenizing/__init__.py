"""Text to tokens and back, as llama.cpp does it: a file's vocabulary, run by `tokenizers` and `sentencepiece`.

>>> tokenizer = build(vocabulary, metadata, decode)
>>> tokenizer.tokenize("Hello world", add_special=False, parse_special=True)

`tokenizer.py` is what all kinds have in common: `fragments.py` finds special tokens, one of `bpe.py`,
`sentence_pieces.py`, `word_pieces.py`, `unigram.py` and `rwkv.py` has the text between them, and `pieces.py` knows what
a token stands for. No I/O, and no state but what the libraries keep.
"""

from app.tokenizing.building import build
from app.tokenizing.pieces import raw
from app.tokenizing.tokenizer import Tokenizer

__all__ = ["Tokenizer", "build", "raw"]
