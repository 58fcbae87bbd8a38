"""The perimeter's directory: where the data is, the rules, the key of pseudonyms, and who may ask."""

import hashlib
import pathlib
import secrets
import shutil

HERE = pathlib.Path(__file__).resolve().parent
RULES = ["rules.toml", "cases.toml", "policies"]
# Known to everybody, like that of `kafscale demo`: they open made-up data on loopback.
TOKENS = {"analyst": "demo-analyst", "Agent:ward-3": "demo-ward-3", "auditor": "demo-auditor"}


def configure(directory, collections):
    """Writes what is not there yet, so that edited rules stay. `collections` becomes `perimeter.toml`."""
    for source, name in [(collections, "perimeter.toml"), *((HERE / name, name) for name in RULES)]:
        if not (directory / name).exists():
            (shutil.copytree if source.is_dir() else shutil.copy)(source, directory / name)
    key = directory / "pseudonyms.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(secrets.token_hex(32))
    lines = [f"{name} observe sha256:{hashlib.sha256(token.encode()).hexdigest()}\n" for name, token in TOKENS.items()]
    (directory / "tokens").write_text("# A name, what it may do, and the SHA-256 of its token\n" + "".join(lines))
