"""Where `kafscale-analytics` is, for suites that need nothing else of it."""

import os
import pathlib
import sys

from broker import ROOT


def program():
    named = os.environ.get("KAFSCALE_ANALYTICS_BIN")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "crates/analytics/target"))
    path = pathlib.Path(named) if named else target / "release" / "kafscale-analytics"
    if not path.is_file():
        sys.exit(f"there is no {path}: build it with `make analytics` or set KAFSCALE_ANALYTICS_BIN")
    return str(path.resolve())
