"""Where tests/setup puts what the tests need: outside of the clone, so that fresh clones find it again."""

import os
import pathlib
import sys

CACHE = pathlib.Path(os.environ.get("KAFSCALE_TEST_CACHE") or pathlib.Path.home() / ".cache" / "kafscale-tests")


def python(venv="venv"):
    return str(CACHE / venv / "bin" / "python")


def enter_python(venv="venv"):
    """Runs the calling script with the Python that has the clients, if it is not that one already."""
    wanted = python(venv)
    if pathlib.Path(sys.prefix) != CACHE / venv:
        if not os.path.exists(wanted):
            sys.exit(f"{wanted} is missing: run tests/setup{' sql' if venv == 'sql-venv' else ''}")
        os.execv(wanted, [wanted, *sys.argv])
