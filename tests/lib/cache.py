"""Where tests/setup puts what the tests need: outside of the clone, so that fresh clones find it again."""

import os
import pathlib

CACHE = pathlib.Path(os.environ.get("KAFSCALE_TEST_CACHE") or pathlib.Path.home() / ".cache" / "kafscale-tests")


def python():
    return str(CACHE / "venv" / "bin" / "python")
