"""What holds for every test."""

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.devices.contract", "tests.residency.deck")  # before anybody imports them

# A slow machine is no failure: no test asserts on a wall-clock time.
settings.register_profile("loadmaster", deadline=None, max_examples=60)
settings.load_profile("loadmaster")
