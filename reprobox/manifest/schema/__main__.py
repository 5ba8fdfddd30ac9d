"""`python -m reprobox.manifest.schema` writes the JSON Schemas in the package anew, after a change of the models."""

from __future__ import annotations

import sys

from reprobox.manifest.schema import write_all

for path in write_all():
    sys.stdout.write(f"{path}\n")
