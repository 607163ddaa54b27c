"""What clients of other services say, in their words: Ollama's and Triton's; OpenAI's is our own `/v1/models`.

Beneath is the same registry as everywhere, and nothing is kept here. These clients know of no jobs: every call answers
when its work is done. They send fields that we do not know, and bodies that do not say that they are JSON; errors are
one sentence each (`app.api.errors.SHAPES`). `docs/dialects.md` says what works with which client.
"""
