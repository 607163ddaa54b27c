"""What holds for every test."""

from hypothesis import settings

# A slow machine is no failure: no test asserts on a wall-clock time.
settings.register_profile("loadmaster", deadline=None, max_examples=60)
settings.load_profile("loadmaster")
