"""The fake Google Cloud of tests/launch."""

from tests.launch.conftest import google, launch

__all__ = ["google", "launch"]
