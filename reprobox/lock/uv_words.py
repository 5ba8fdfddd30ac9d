"""What uv said, turned into an error that a person can act on, with no address of theirs in it."""

from __future__ import annotations

import re

from reprobox.errors import LockError
from reprobox.lock.addresses import scrub
from reprobox.lock.uv_command import UvFailure

_UNKNOWN = re.compile(r"(?:Because |and )(\S+) was not found in the (package registry|provided package locations)")
_NO_WHEELS = re.compile(r"([\w.+!\-\[\]]+?)(?:[=<>~!]=?\S*)? (?:has|have) no (?:usable )?wheels")
_WHEELS_REQUIRED = re.compile(r"hint: Wheels are required for `([^`]+)` because building from source is disabled")
_NO_VERSION = re.compile(r"there (?:is|are) no versions? of (\S+)")
# What is there, and what is asked for: one specifier, or `one of:` several.
_OTHER_VERSIONS = re.compile(
    r"only (?:the following versions of )?\S+ (?:is|are) available.*? and you require (?:one of: )?(.+?),? "
    r"we can conclude that your requirements are unsatisfiable"
)
_DEPENDS = re.compile(r"\bdepends? on\b")
_REFUSED = re.compile(r"\((401|403) ")
_UNREACHABLE = re.compile(
    r"error sending request|Request failed after|Failed to fetch|Could not connect|network was disabled|"
    r"dns error|tcp connect error|operation timed out",
    re.IGNORECASE,
)
_CERTIFICATE = re.compile(r"certificate|UnknownIssuer", re.IGNORECASE)
_YANKED = re.compile(r'warning: `([^`]+)` is yanked(?: \(reason: "(.*?)"\))?')
# Whether a build of PyTorch exists, uv alone knows: with each of its releases there are others.
_NO_BACKEND = re.compile(r"invalid value '([^']*)' for '--torch-backend .*?\[possible values: ([^\]]*)\]")
_DRAWING = " ×╰─▶│├·\t"
# What says nothing of the cause, or names flags of ours that the user never gave.
_NOISE = ("warning: ", "Resolved ", "No solution found when", "hint: Wheels are required for")
_UNWRITABLE = re.compile(r"No space left on device|os error 28")


def no_solution(failure: UvFailure) -> bool:
    """Tell whether uv did its work and found that no set of packages fits, rather than failing at it."""
    said = _unwrapped(failure.text)
    # An index that is silent or closed offers nothing either, but then the trouble is the index.
    return "No solution found" in said and not _UNREACHABLE.search(said) and not _REFUSED.search(said)


def without_wheels(failure: UvFailure) -> frozenset[str]:
    """Return the names of packages of which there might be source archives, where that is what uv stopped at."""
    return frozenset(_WHEELS_REQUIRED.findall(_unwrapped(failure.text))) if no_solution(failure) else frozenset()


def explain(failure: UvFailure, *, source: str, python: str, platform: str) -> LockError:
    """Return the error for a resolution of the requirements file `source` that failed."""
    said = _unwrapped(failure.text)
    reason = _reason(scrub(failure.text))
    refused = _REFUSED.search(said)
    if failure.status < 0:
        return LockError(
            f"uv was killed by signal {-failure.status} while it resolved {source}",
            details=reason,
            hint="Look whether the machine ran out of memory, then try again.",
        )
    if refused:
        return LockError(
            f"{source} cannot be resolved: a package index refused the credentials it was given ({refused[1]})",
            details=reason,
            hint="Check the user name and password of the index in the settings of pip or uv, or in netrc.",
        )
    if _UNREACHABLE.search(said):
        certificate = bool(_CERTIFICATE.search(said))
        return LockError(
            f"{source} cannot be resolved: "
            + (
                "a package index shows a certificate that is not trusted here"
                if certificate
                else "no package index answers"
            ),
            details=reason,
            hint="Name the file of your CA certificates in SSL_CERT_FILE or in pip's `cert`."
            if certificate
            else "Check the network, the proxy (HTTPS_PROXY) and the index settings of pip or uv, then try again.",
        )
    if "No solution found" in said:
        return _unsolvable(said, reason, source=source, python=python, platform=platform)
    no_backend = _NO_BACKEND.search(said)
    if no_backend:
        return LockError(
            f"there is no build of PyTorch named {no_backend[1]} (environment.torch_backend)",
            details=(f"this uv knows: {no_backend[2]}",),
            hint="Choose one of these; auto takes the one for this machine's driver.",
        )
    if _UNWRITABLE.search(said):
        return LockError(f"{source} cannot be resolved: the disk is full", hint="Free some space (uv cache clean).")
    return LockError(
        f"uv failed on {source} (exit status {failure.status})",
        details=reason,
        hint="If the requirements are right, run `uv pip compile` on them to see whether it is uv or reprobox.",
    )


def yanked(said: str) -> list[str]:
    """Return a warning for every release that uv took although its authors have withdrawn it."""
    return [
        f"{name} was withdrawn by its authors (yanked)" + (f": {scrub(reason)}" if reason else "") + "; choose another"
        for name, reason in _YANKED.findall(said)
    ]


def _unsolvable(text: str, reason: tuple[str, ...], *, source: str, python: str, platform: str) -> LockError:
    wheelless = _NO_WHEELS.search(text)
    if wheelless:
        name = wheelless[1]
        sources = "building from source is disabled" in text or "no usable wheels" in text
        return LockError(
            f"{name} offers no wheel for Python {python} on {platform}"
            + ("; only source archives, or wheels for other systems" if sources else ""),
            details=reason,
            hint=f"Choose another version of {name} or another Python; or build its wheel once (`pip wheel {name}`) "
            "and name its folder with find-links; or take it from an environment that has it (--from-env).",
        )
    unknown = _UNKNOWN.search(text)
    if unknown:
        return LockError(
            f"no such package: {unknown[1]}",
            details=(f"required by {source}, on no index that you have configured", *reason),
            hint="Check the spelling; if it lies on a private index, add that index to the settings of pip or uv.",
        )
    version = _NO_VERSION.search(text) or _OTHER_VERSIONS.search(text)
    if version and not _DEPENDS.search(text):
        return LockError(
            f"no such version: {version[1].rstrip(',.').replace(' ', ' or ')}",
            details=(f"required by {source}", *reason),
            hint="Choose a version that exists for this Python and platform.",
        )
    return LockError(
        f"{source} asks for packages that exclude each other (Python {python}, {platform})",
        details=reason,
        hint="Loosen or remove one of the requirements named above.",
    )


def _unwrapped(text: str) -> str:
    """Return what uv said as one line: some of its releases break lines at 80 columns, in the middle of a sentence."""
    return " ".join(filter(None, (line.strip(_DRAWING) for line in text.splitlines())))


def _reason(text: str) -> tuple[str, ...]:
    """Return uv's own words, a statement a line, without its layout, warnings and progress."""
    lines: list[str] = []
    for raw in text.splitlines():
        line = raw.strip(_DRAWING)
        for label in ("error: ", "cause: ", "Caused by: "):
            line = line.removeprefix(label)
        if line and not line.startswith(_NOISE):
            lines.append(line.removeprefix("hint: ").rstrip(":"))
    return tuple(lines[:12])
