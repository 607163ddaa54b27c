"""What the libraries' Rust cannot do is a panic, which Python knows as no Exception: it would be nobody's to catch."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import LoadmasterError


@contextmanager
def panics_are(fault: LoadmasterError) -> Iterator[None]:
    """Raise `fault` in the place of a panic; Oniguruma's `retry-limit-in-match over`, say."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # made by each extension anew, so that none can be imported
            raise
        raise fault from error
