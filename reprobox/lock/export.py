"""A Lock written for other tools."""

from __future__ import annotations

import json
from collections.abc import Mapping

from reprobox.lock.model import BuiltFrom, Lock
from reprobox.lock.platforms import architecture_of

# Relative to the lock, as PEP 751 has it: where its wheels lie for a tool that installs from it alone.
WHEELS = "wheels"


def export_requirements(lock: Lock) -> str:
    """Return requirements text with every wheel pinned by hash, for `pip install --require-hashes -r`."""
    return "".join(
        f"{package.name}=={package.version} \\\n    --hash=sha256:{package.sha256}\n" for package in lock.packages
    )


def export_pylock(lock: Lock, table: Mapping[str, str]) -> str:
    """Return the lock as a pylock.toml (PEP 751) for this one Python and platform.

    It names no address: the wheels are expected in the folder `wheels` beside it. `table` is what reprobox itself
    keeps in it ([tool.reprobox]).
    """
    # A JSON string of printable ASCII is a basic string of TOML.
    quoted = json.dumps
    marker = f"sys_platform == 'linux' and platform_machine == '{architecture_of(lock.platform)}'"
    lines = [
        'lock-version = "1.0"',
        f"environments = [{quoted(marker)}]",
        f"requires-python = {quoted(f'=={lock.python}.*')}",
        'created-by = "reprobox"',
        *([] if lock.packages else ["packages = []"]),
    ]
    for package in lock.packages:
        path = quoted(f"{WHEELS}/{package.file}")
        lines += [
            "",
            "[[packages]]",
            f"name = {quoted(package.name)}",
            f"version = {quoted(package.version)}",
            f"wheels = [{{ path = {path}, hashes = {{ sha256 = {quoted(package.sha256)} }} }}]",
            *([] if package.origin is None else [f"tool.reprobox.origin = {quoted(package.origin)}"]),
            *([] if package.built_from is None else [f"tool.reprobox.built_from = {_inline(package.built_from)}"]),
        ]
    own = {"python": lock.python, "platform": lock.platform, **table}
    lines += ["", "[tool.reprobox]", *(f"{key} = {quoted(value)}" for key, value in own.items())]
    return "\n".join(lines) + "\n"


def _inline(built_from: BuiltFrom) -> str:
    """Return what a wheel was built of as an inline table of TOML."""
    requires = ", ".join(json.dumps(line) for line in built_from.requires)
    return f'{{ file = "{built_from.file}", sha256 = "{built_from.sha256}", requires = [{requires}] }}'
