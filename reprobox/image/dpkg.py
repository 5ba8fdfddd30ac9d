"""What a Debian root consists of, read out of its tar: dpkg's status file and the indexes that apt verified it by.

Each index is signed through its release file, and apt refuses a package whose file has not the sha256 that the index
tells; so that sum is the one of the file that was installed. Sources: deb822(5), sources.list(5), apt-secure(8).
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from reprobox.errors import ImageError

_STATUS = "./var/lib/dpkg/status"
_INDEX = re.compile(r"\./var/lib/apt/lists/[^/]+_Packages")
_FIELD = re.compile(rb"^([A-Za-z0-9-]+): (.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Installed:
    """The packages of a root: `name=version` of each, sorted; libc's `architecture` (`amd64`); and `debs`,
    `file=sha256` of the file that each came in, sorted.
    """

    packages: tuple[str, ...]
    architecture: str
    debs: tuple[str, ...]


def read_installed(root: tarfile.TarFile) -> Installed:
    """Read the root's tar, which must hold apt's indexes still. Raises ImageError when one does not tell a sha256."""
    found: dict[tuple[str, str, str], str] = {}
    architecture = ""
    for fields in _stanzas(root, _STATUS):
        if fields.get("Status", "").endswith(" installed"):
            found[fields["Package"], fields["Version"], fields["Architecture"]] = ""
            if fields["Package"] == "libc6":
                architecture = fields["Architecture"]
    names = frozenset(name for name, _, _ in found)
    for member in root.getnames():
        if _INDEX.fullmatch(member):
            for fields in _stanzas(root, member, names):
                key = (fields["Package"], fields["Version"], fields["Architecture"])
                if key in found and "SHA256" in fields:
                    found[key] = f"{PurePosixPath(fields['Filename']).name}={fields['SHA256']}"
    lacking = sorted(name for (name, _, _), file in found.items() if not file)
    if lacking:
        raise ImageError(
            f"apt's indexes do not tell the sha256 of {', '.join(lacking)}",
            hint="name another archive of Debian's packages in /etc/apt/sources.list.d",
        )
    return Installed(
        packages=tuple(sorted(f"{name}={version}" for name, version, _ in found)),
        architecture=architecture,
        debs=tuple(sorted(found.values())),
    )


def _stanzas(root: tarfile.TarFile, member: str, names: frozenset[str] | None = None) -> Iterator[dict[str, str]]:
    """Yield the one-line fields of each stanza, of the packages `names` alone where given: an index has 60,000."""
    source = root.extractfile(member)
    assert source is not None
    for stanza in source.read().split(b"\n\n"):
        if names is not None:
            first = stanza.lstrip().partition(b"\n")[0]
            if first.startswith(b"Package: ") and first[len(b"Package: ") :].decode() not in names:
                continue
        fields = {key.decode(): value.decode(errors="replace") for key, value in _FIELD.findall(stanza)}
        if "Package" in fields:
            yield fields
