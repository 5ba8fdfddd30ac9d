"""The catalogue of bases: the folder `images/` of a checkout, `_images/` of the installed package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reprobox.errors import ImageError


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """One base as the catalogue pins it: a `registry` reference, or a `debian` suite and the packages added to it.

    `pythons` are the references or suites that it offers, by the minor version of their Python.
    """

    name: str
    kind: str
    reference: str
    packages: tuple[str, ...] = ()
    pythons: Mapping[str, str] = field(default_factory=dict)

    def offering(self, python: str | None) -> str | None:
        """Return the reference or suite with that Python (None: whichever it pins), or None where there is none."""
        return self.reference if python is None else self.pythons.get(python)


def catalogue_root() -> Path:
    """Return the catalogue's folder. Raises ImageError when this installation has none."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "_images", package.parent / "images"):
        if (candidate / "auto.json").is_file():
            return candidate
    raise ImageError(
        "the catalogue of base images is missing from this installation",
        details=(f"looked beside {package}",),
        hint="install reprobox again",
    )


def entry(name: str) -> CatalogueEntry:
    """Return the base of that name in the catalogue."""
    pins = json.loads((catalogue_root() / name / "base.json").read_bytes())
    reference = pins["suite"] if pins["kind"] == "debian" else pins["reference"]
    return CatalogueEntry(
        name=name,
        kind=pins["kind"],
        reference=reference,
        packages=tuple(pins.get("packages", ())),
        pythons=pins.get("pythons", {}),
    )


def automatic() -> tuple[CatalogueEntry, ...]:
    """Return the bases that `auto` tries, in order."""
    return tuple(entry(name) for name in json.loads((catalogue_root() / "auto.json").read_bytes()))


def offers() -> tuple[str, ...]:
    """Say which Pythons every base of the catalogue offers, a line each, for messages."""
    lines = []
    for base in automatic():
        lead = "debian:" if base.kind == "debian" else ""
        names = ", ".join(f"{python} ({lead}{reference})" for python, reference in base.pythons.items())
        lines.append(
            f"{base.name} offers {names}" + ("" if base.kind == "debian" else ", where an image registry answers")
        )
    return tuple(lines)
