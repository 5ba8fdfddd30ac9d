"""TrainingConfig: seed and choice of operations as a small file that a later session loads and applies again.

The YAML is written and read here, as the user's environment may hold no YAML library: one `key: value` a line, text in
JSON's quotes, which YAML shares. What goes beyond that is refused by line, not guessed at.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from . import explicit

_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*:(?:\s+(.*))?")
_WORDS = {"true": True, "false": False, "null": None, "~": None}
# The first character of what YAML would not read as plain text.
_INDICATORS = "&*!|>%@`[]{},?-"


@dataclass(frozen=True)
class TrainingConfig:
    """What decides about randomness, to be kept with an experiment.

    `seed` is a whole number from 0 to 2**32 - 1, `deterministic` whether to take only operations that give the same
    bits each time (the default takes the fastest), `notes` any text. Raises TypeError or ValueError for other values.
    """

    seed: int = 42
    deterministic: bool = False
    notes: str = ""

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, "seed", explicit.checked_seed(self.seed))
        if not isinstance(self.deterministic, bool):
            raise TypeError("deterministic is true or false, found %r" % (self.deterministic,))
        if not isinstance(self.notes, str):
            raise TypeError("notes are text, found %r" % (self.notes,))

    def apply(self) -> TrainingConfig:
        """Call `set_random_seed` with these values, and return the configuration."""
        explicit.set_random_seed(self.seed, self.deterministic)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> TrainingConfig:
        """Make a configuration of values by name; what is missing has its default. Raises ValueError for other keys."""
        if not isinstance(data, dict):
            raise TypeError("expected keys and values, found %s" % type(data).__name__)
        known = [field.name for field in fields(cls)]
        unknown = [key for key in data if key not in known]
        if unknown:
            raise ValueError("unknown key %r, expected one of: %s" % (unknown[0], ", ".join(known)))
        return cls(**data)

    def to_json(self) -> str:
        """Return the configuration as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainingConfig:
        """Read what `to_json` wrote. Raises ValueError for what is not JSON."""
        return cls.from_dict(json.loads(text, object_pairs_hook=_unique))

    def to_yaml(self) -> str:
        """Return the configuration as YAML."""
        return "".join("%s: %s\n" % (key, _quoted(value)) for key, value in asdict(self).items())

    @classmethod
    def from_yaml(cls, text: str) -> TrainingConfig:
        """Read what `to_yaml` wrote, or a person: keys with numbers, true, false or one line of text, and comments.

        Raises ValueError, with the line, for YAML that is more than that.
        """
        pairs = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#") or line.rstrip() == "---":
                continue
            match = _LINE.fullmatch(line.rstrip())
            if match is None:
                raise _not_simple(number, line)
            pairs.append((match[1], _scalar(match[2] or "", number, line)))
        return cls.from_dict(_unique(pairs))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the configuration to a file whose name ends in .json, .yaml or .yml."""
        text = self.to_json() if _is_json(path) else self.to_yaml()
        temporary = "%s.%d.tmp" % (os.fspath(path), os.getpid())
        Path(temporary).write_text(text, encoding="utf-8")
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, apply: bool = True) -> TrainingConfig:
        """Read a file that `save` wrote and apply it, so that the session goes on in the mode of the one that saved it.

        With `apply=False` nothing is seeded or switched. Raises ValueError, naming the file; then nothing is either.
        """
        text = Path(path).read_text(encoding="utf-8")
        try:
            config = cls.from_json(text) if _is_json(path) else cls.from_yaml(text)
        except (TypeError, ValueError) as error:
            raise ValueError("%s: %s" % (os.fspath(path), error)) from error
        return config.apply() if apply else config


def _is_json(path: str | os.PathLike[str]) -> bool:
    ending = os.path.splitext(os.fspath(path))[1]
    if ending not in (".json", ".yaml", ".yml"):
        raise ValueError("%s: expected a name that ends in .json, .yaml or .yml" % os.fspath(path))
    return ending == ".json"


def _quoted(value: Any) -> str:
    """Write a value for JSON and YAML alike: YAML knows no surrogate pairs and takes only printable characters bare."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(
        "\\u%04x" % ord(letter) if not letter.isprintable() and letter <= "\uffff" else letter for letter in text
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("a key stands there twice: %s" % ", ".join(key for key, _ in pairs))
    return data


def _scalar(text: str, number: int, line: str) -> Any:
    if text.startswith('"'):
        try:
            value, end = json.JSONDecoder(strict=False).raw_decode(text)
        except ValueError:
            raise _not_simple(number, line) from None
        rest = text[end:]
    elif text.startswith("'"):
        match = re.match(r"'((?:[^']|'')*)'", text)
        if match is None:
            raise _not_simple(number, line)
        value, rest = match[1].replace("''", "'"), text[match.end() :]
    else:
        plain = re.split(r"(?:^|\s+)#", text)[0].strip()
        if re.fullmatch(r"[-+]?[0-9]+", plain):
            return int(plain)
        if (plain[:1] and plain[0] in _INDICATORS) or ": " in plain or plain.endswith(":"):
            raise _not_simple(number, line)
        return _WORDS.get(plain.lower(), plain)
    if rest.strip() and not re.match(r"\s+#", rest):
        raise _not_simple(number, line)
    return value


def _not_simple(number: int, line: str) -> ValueError:
    return ValueError(
        "line %d is not `key: value` with a number, true, false or one line of text: %s" % (number, line.strip()[:60])
    )
