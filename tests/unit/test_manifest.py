"""The manifest: written, read, digested, and never believed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reprobox.documents import write_document
from reprobox.errors import ManifestError, NewerSchemaError
from reprobox.manifest.format import document_digest
from reprobox.manifest.model import Manifest
from reprobox.manifest.receipt import RECEIPT_FORMAT
from reprobox.manifest.store import (
    HEADER,
    MANIFEST_FORMAT,
    dump_manifest,
    manifest_digest,
    read_manifest,
    write_manifest,
)
from tests.unit.counting import calls

ASSETS = Path(__file__).parent.parent / "assets"
EXAMPLE = ASSETS / "manifest-1.yaml"

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_manifest(EXAMPLE)


def edited(edit: Edit) -> bytes:
    """Return the example, changed by `edit` and with a digest that holds, as an able forger would."""
    data = yaml.safe_load(EXAMPLE.read_bytes())
    edit(data)
    data["digest"] = document_digest(data)
    return write_document(data)


def refused(content: bytes | Path) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        MANIFEST_FORMAT.read(content)
    return caught.value


def put(*path: str | int, value: object) -> Edit:
    def edit(data: dict[str, Any]) -> None:
        at: Any = data
        for part in path[:-1]:
            at = at[part]
        at[path[-1]] = value

    return edit


def test_the_stored_example_is_read_and_written_again_to_the_byte(manifest: Manifest, tmp_path: Path) -> None:
    assert manifest.name == "digits-cnn"
    assert manifest.lock.version_of("torch") == "2.13.0+cpu"
    assert manifest.streams[0].count == manifest.result.steps == 40
    write_manifest(manifest, tmp_path / "manifest.yaml")
    assert (tmp_path / "manifest.yaml").read_bytes() == EXAMPLE.read_bytes()


def test_the_losses_and_the_code_inside_the_example_are_what_their_digests_say(manifest: Manifest) -> None:
    import base64
    import hashlib
    import lzma

    from reprobox.trajectory.codec import decode_stream, trajectory_digest

    assert trajectory_digest([decode_stream(stream) for stream in manifest.streams]) == manifest.result.trajectory
    assert manifest.archive is not None
    code = lzma.decompress(base64.b64decode(manifest.archive))
    assert "sha256:" + hashlib.sha256(code).hexdigest() == manifest.code.archive.digest


def test_what_is_written_is_read_again_equal_and_with_the_same_digest(manifest: Manifest, tmp_path: Path) -> None:
    changed = replace(
        manifest, warnings=("one: \u00e9", "two\nlines", "no"), determinism={"a": {"b": [None, "1.0", 3]}}
    )
    write_manifest(changed, tmp_path / "manifest.yaml")
    again = read_manifest(tmp_path / "manifest.yaml")
    assert again == changed
    assert manifest_digest(again) == manifest_digest(changed) != manifest_digest(manifest)


def test_the_digest_is_sha256_over_canonical_json_without_digest_and_signatures(manifest: Manifest) -> None:
    import hashlib

    data = yaml.safe_load(EXAMPLE.read_bytes())
    recorded = data.pop("digest")
    del data["signatures"]
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert recorded == "sha256:" + hashlib.sha256(canonical).hexdigest() == manifest_digest(manifest)


def test_a_signature_does_not_change_the_digest(manifest: Manifest) -> None:
    signed = replace(manifest, signatures=({"kind": "test", "value": "abc"},))
    assert manifest_digest(signed) == manifest_digest(manifest)
    assert MANIFEST_FORMAT.read(dump_manifest(signed)).signatures == signed.signatures


def test_the_text_says_what_it_is_and_has_the_digest_as_its_second_key(manifest: Manifest) -> None:
    text = dump_manifest(manifest).decode()
    assert text.startswith(HEADER)
    assert "reprobox replay manifest.yaml" in HEADER
    assert list(yaml.safe_load(text))[:3] == ["reprobox_manifest", "digest", "name"]
    assert list(yaml.safe_load(text))[-1] == "signatures"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("manifest-1-truncated.yaml", "ends in the middle of an entry"),
        ("manifest-1-edited.yaml", "was edited after reprobox wrote it"),
        ("manifest-not-yaml.yaml", "yaml:3: this is not YAML"),
        (
            "manifest-1-duplicate-key.yaml",
            "yaml:9: the key name stands here for the second time; the first is on line 8",
        ),
        ("manifest-1-alias.yaml", "yaml:8: the anchor &name is refused"),
        ("receipt-1.yaml", "is a reprobox receipt, not a manifest"),
        ("missing.yaml", "there is no manifest at"),
    ],
)
def test_a_defect_is_called_by_its_name(name: str, words: str) -> None:
    assert words in refused(ASSETS / name).message


def test_a_newer_schema_says_who_wrote_it_and_what_to_install() -> None:
    with pytest.raises(NewerSchemaError) as caught:
        read_manifest(ASSETS / "manifest-9.yaml")
    assert "has schema 9, written by reprobox 4.2.0" in caught.value.message
    assert "which reads a manifest of schema 1" in caught.value.details[0]
    assert caught.value.hint == "pip install 'reprobox>=4.2.0'"


def test_the_writer_of_a_newer_schema_is_not_trusted_with_the_hint() -> None:
    error = refused(b'reprobox_manifest: 2\nreprobox: "1\'; rm -rf ~"\n')
    assert error.hint == "pip install --upgrade reprobox"
    assert "rm" not in error.message


@pytest.mark.parametrize("schema", ["0", "-1", "one", "true", '"1"'])
def test_a_schema_that_never_was_is_refused(schema: str) -> None:
    assert "no reprobox ever wrote schema" in refused(f"a: 1\nreprobox_manifest: {schema}\n".encode()).message


def test_yaml_of_another_kind_is_no_manifest() -> None:
    error = refused(b"name: digits\nseed: 42\n")
    assert "is YAML, but not a manifest of reprobox" in error.message
    assert error.details == ("expected the key reprobox_manifest",)


def test_a_manifest_of_100_mb_is_refused_without_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "manifest.yaml"
    with path.open("wb") as handle:
        handle.write(EXAMPLE.read_bytes())
        handle.truncate(100_000_000)
    monkeypatch.setattr(Path, "open", None)
    assert "is too large for a manifest: 100.0 MB" in refused(path).message


@settings(max_examples=60)
@given(st.integers(0, len(EXAMPLE.read_bytes()) - 2))
@example(EXAMPLE.read_bytes().index(b"\\") + 1)
@example(EXAMPLE.read_bytes().index(b"train.py, -") + len(b"train.py, -"))
def test_a_manifest_cut_off_anywhere_is_said_to_be_cut_off(length: int) -> None:
    error = refused(EXAMPLE.read_bytes()[:length])
    said = "\n".join([error.message, *error.details])
    assert re.search("truncated|is empty|holds no keys", said), said


def test_an_edit_that_breaks_a_field_is_named_with_its_line_and_as_an_edit() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    at = text.splitlines().index("  status: completed") + 1
    error = refused(text.replace("status: completed", "status: complete").encode())
    assert error.message == f"manifest:{at}: run.status: expected completed, failed or interrupted, found complete"
    assert error.details == ("did you mean completed?",)
    assert error.hint is not None
    assert "edited" in error.hint


HOSTILE: list[tuple[str, Edit]] = [
    ("lock.packages[0].file", put("lock", "packages", 0, "file", value="../../evil-1.0-py3-none-any.whl")),
    ("lock.packages[0].file", put("lock", "packages", 0, "file", value="torch-2.4.6-py3-none-any.whl")),
    ("lock.packages[0].file", put("lock", "packages", 0, "file", value="numpy-2.4.6.whl")),
    ("lock.packages[0].file", put("lock", "packages", 0, "file", value="numpy-9.9.9-py3-none-any.whl")),
    ("lock.packages[0].name", put("lock", "packages", 0, "name", value="NumPy; rm")),
    ("lock.packages[0].version", put("lock", "packages", 0, "version", value="latest")),
    ("lock.packages[0].sha256", put("lock", "packages", 0, "sha256", value="A" * 64)),
    ("lock.packages[1].name", lambda data: data["lock"]["packages"].insert(1, data["lock"]["packages"][0])),
    ("lock.platform", put("lock", "platform", value="x86 --index-url")),
    ("result.outputs[0].path", put("result", "outputs", 0, "path", value="../outside")),
    ("result.outputs[0].path", put("result", "outputs", 0, "path", value="/etc/passwd")),
    ("result.outputs[0].path", put("result", "outputs", 0, "path", value="a/./b")),
    ("result.outputs[0].path", put("result", "outputs", 0, "path", value="a//b")),
    ("result.outputs[0].path", put("result", "outputs", 0, "path", value="a/..")),
    ("result.outputs[0].bytes", put("result", "outputs", 0, "bytes", value=-1)),
    ("data[0].path", put("data", 0, "path", value="..")),
    ("data[0].digest", put("data", 0, "digest", value="md5:abc")),
    ("spec.data[0]", put("spec", "data", value=["../../home"])),
    ("spec.outputs[0]", put("spec", "outputs", value=["/"])),
    ("spec.env[0]", put("spec", "env", value=["LD PRELOAD"])),
    ("spec.image.base", put("spec", "image", "base", value="--privileged")),
    ("run.command", put("run", "command", value=["python", "harmless.py"])),
    ("run.command", put("run", "command", value=[])),
    ("run.seed", put("run", "seed", value=43)),
    ("run.id", put("run", "id", value="../x")),
    ("run.exit_code", put("run", "exit_code", value=1)),
    ("run.started", put("run", "started", value="2026-13-01T00:00:00Z")),
    ("run.seconds", put("run", "seconds", value="fast")),
    ("run.seed", put("run", "seed", value="42")),
    ("run.deterministic", put("run", "deterministic", value="yes")),
    ("result.steps", put("result", "steps", value=41)),
    ("result.first_loss", put("result", "first_loss", value=None)),
    ("result.trajectory", put("result", "trajectory", value="sha256:12")),
    ("streams[0].losses", put("streams", 0, "losses", value="not base64!")),
    ("streams[0].dtype", put("streams", 0, "dtype", value="float8")),
    ("engine.kind", put("engine", "kind", value="podman")),
    ("image", put("image", value=None)),
    ("image.config_digest", put("image", "config_digest", value="latest")),
    ("image.base.debs[0]", put("image", "base", "debs", value=[f"../libc6_2.36_amd64.deb={'0' * 64}"])),
    ("spec.image.apt[0]", put("spec", "image", "apt", value=["--force-yes"])),
    ("spec.image.snapshot", put("spec", "image", "snapshot", value="2026-11-01/../..")),
    ("code.tree", put("code", "tree", value="swh:1:rev:" + "0" * 40)),
    ("archive", put("archive", value=None)),
    ("machine.cpu.model", put("machine", "cpu", "model", value="EPYC \x1b]0;pwned\x07")),
    ("determinism.x", put("determinism", "x", value="\x9b31m")),
    ("warnings[0]", put("warnings", value=["\x1b[2J"])),
    ("machine.colour", put("machine", "colour", value="red")),
    ("machine.os", lambda data: data["machine"].pop("os")),
]


@pytest.mark.parametrize(("where", "edit"), HOSTILE)
def test_a_forged_value_is_refused_by_its_place_though_the_digest_holds(where: str, edit: Edit) -> None:
    error = refused(edited(edit))
    assert re.search(rf"manifest(:\d+)?: {re.escape(where)}(:| is )", error.message), error.message
    assert error.hint is None
    assert error.message.isprintable()


def test_twenty_mistakes_are_listed_and_the_rest_counted() -> None:
    error = refused(edited(put("data", value=[{"path": ".."}] * 50)))
    assert error.message == "manifest holds 200 mistakes"
    assert error.details[-1] == "and 180 more"


def test_a_digest_that_is_missing_or_no_text_is_an_edit() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    for line in ("", "digest: 5", "digest: [a]"):
        assert "was edited" in refused(re.sub(r"digest: .*", line, text, count=1).encode()).message


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"determinism": {"lr": 0.1}}, "determinism.lr: expected text, a whole number"),
        ({"determinism": {"k" * 201: 1}}, "determinism: holds a key"),
        ({"determinism": {"n": 10**21}}, "determinism.n: is a number of over 20 digits"),
        ({"warnings": ("\ud800",)}, r"warnings[0]: holds the control character \ud800"),
        ({"created": "yesterday"}, "created: expected a time in UTC"),
        ({"reprobox_manifest": 2}, "reprobox_manifest: expected 1"),
    ],
)
def test_what_could_not_be_read_is_not_written(manifest: Manifest, change: dict[str, Any], where: str) -> None:
    with pytest.raises(ManifestError) as caught:
        dump_manifest(replace(manifest, **change))
    assert caught.value.message.startswith(f"the manifest to be written: {where}")


def test_what_is_too_large_to_be_read_is_not_written(manifest: Manifest) -> None:
    with pytest.raises(ManifestError, match="manifest to be written is too large"):
        dump_manifest(replace(manifest, archive="A" * 64_000_000))


def test_free_trees_end_before_the_nesting_limit(manifest: Manifest) -> None:
    tree: Any = "leaf"
    for _ in range(40):
        tree = [tree]
    with pytest.raises(ManifestError, match="nested deeper than 16"):
        dump_manifest(replace(manifest, determinism={"x": tree}))


def test_a_run_without_losses_on_the_local_engine_is_a_manifest_too(manifest: Manifest) -> None:
    bare = replace(
        manifest,
        image=None,
        engine=replace(manifest.engine, kind="local"),
        result=replace(manifest.result, steps=0, optimizer_steps=0, first_loss=None, final_loss=None, weights=None),
        run=replace(manifest.run, status="failed", exit_code=None),
        streams=(),
        archive=None,
        code=replace(manifest.code, archive=replace(manifest.code.archive, inline=False)),
    )
    assert MANIFEST_FORMAT.read(dump_manifest(bare)) == bare


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml here")
def test_a_manifest_of_five_megabytes_is_read_and_checked_with_no_more_python_than_a_small_one(
    manifest: Manifest,
) -> None:
    work = []
    for size in (5_000, 5_000, 5_000_000):
        content = dump_manifest(replace(manifest, archive="A" * size))
        read, called = calls(partial(MANIFEST_FORMAT.read, content))
        assert read.archive == "A" * size
        work.append(called)
    # The first reading may import something, and fills caches; the garbage collector may call something in any.
    assert work[2] < 1.1 * work[1]


def test_manifest_and_receipt_stop_with_a_key_that_is_never_null() -> None:
    # Only so can a document that was cut after its last colon be told from a whole one.
    from reprobox.validation import field_types

    for kind in (MANIFEST_FORMAT, RECEIPT_FORMAT):
        model: type = kind.model
        last = list(field_types(model).values())[-1]
        assert "None" not in str(last)


def test_the_lines_in_the_docs_compute_the_digest(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ASSETS.parent.parent / "docs" / "manifest.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    # One integer that not every reader of JSON keeps, and keys that sort otherwise by UTF-16 than by code point.
    odd = {"n": 2**53, "keys": {"\ufb33": 1, "\U0001f600": 2}}
    write_manifest(replace(manifest, determinism={**manifest.determinism, **odd}), tmp_path / "manifest.yaml")
    monkeypatch.chdir(tmp_path)
    exec(compile(lines, "docs/manifest.md", "exec"), {})
    content = (tmp_path / "manifest.yaml").read_text()
    (tmp_path / "manifest.yaml").write_text(content.replace("9007199254740992", "9007199254740993"))
    with pytest.raises(AssertionError):
        exec(compile(lines, "docs/manifest.md", "exec"), {})
