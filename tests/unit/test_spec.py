"""RunSpec: what `reprobox.yaml` and flags mean, and that every mistake is named by line or flag."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.documents import write_document
from reprobox.errors import SpecError
from reprobox.spec import RULES, EnvironmentSpec, ResourceSpec, RunSpec, load_spec, parse_size, slug
from reprobox.validation import build, to_plain

Load = Callable[..., RunSpec]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Reads `text` as the `reprobox.yaml` of the current folder, with overrides."""

    def load_text(text: str | None, **overrides: object) -> RunSpec:
        project = tmp_path / "My Project"
        project.mkdir(exist_ok=True)
        monkeypatch.chdir(project)
        if text is not None:
            (project / "reprobox.yaml").write_text(text, encoding="utf-8")
        given_names = {name.replace("__", "."): value for name, value in overrides.items()}
        return load_spec(Path(), file=None, overrides=given_names)

    return load_text


def lines(load: Load, text: str, **overrides: object) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(text, **overrides)
    return [caught.value.message, *caught.value.details]


def test_without_a_file_a_command_is_enough_and_the_folder_names_the_run(load: Load) -> None:
    assert load(None, command=("python", "train.py")) == RunSpec(name="my-project", command=("python", "train.py"))


def test_every_field_is_read_from_the_file(load: Load) -> None:
    spec = load(
        """
name: digits-cnn
command: [python, train.py, --epochs, 2, --lr, 1e-5]
seed: 7
deterministic: true
environment: {python: 3.11, requirements: ./requirements/base.txt}
image:
  base: python:3.11-slim
resources: {gpus: 0, cpus: 4, memory: 8g, shm: 1.5g}
data: [data/digits/, ./more, more]
env: [HF_TOKEN]
network: true
outputs: [models]
"""
    )
    assert spec.command == ("python", "train.py", "--epochs", "2", "--lr", "1e-5")
    assert spec.environment == EnvironmentSpec(python="3.11", requirements="requirements/base.txt")
    assert spec.resources == ResourceSpec(gpus="0", cpus=4, memory="8g", shm="1.5g")
    assert spec.data == ("data/digits", "more")
    assert (spec.name, spec.seed, spec.deterministic, spec.network) == ("digits-cnn", 7, True, True)
    assert (spec.image.base, spec.env, spec.outputs) == ("python:3.11-slim", ("HF_TOKEN",), ("models",))


def test_what_is_not_used_of_the_later_fields_is_not_written(load: Load) -> None:
    assert to_plain(load("command: [x]\n"))["image"] == {"base": "auto"}
    image = load("command: [x]\nimage: {apt: [libgl1, ffmpeg, libgl1], snapshot: 2026-11-01T00:00:00Z}\n").image
    assert (image.apt, image.snapshot) == (("ffmpeg", "libgl1"), "2026-11-01T00:00:00Z")


def test_folders_of_modules_are_named_once_and_a_variable_for_them_is_sent_there(load: Load) -> None:
    assert load("command: [x]\npythonpath: [./src, src/, .]\n").pythonpath == ("src", ".")
    assert "pythonpath" not in to_plain(load("command: [x]\n"))
    assert "did you mean the field `pythonpath: [src]`?" in lines(load, "command: [x]\nenv: [PYTHONPATH]\n")


def test_metrics_are_named_once_and_left_out_where_there_are_none(load: Load) -> None:
    text = "metrics: [./outputs//a.json, outputs/a.json, b.csv]\nunjudged_metrics: [debug/*, debug/*]\n"
    spec = load("command: [x]\n" + text)
    assert (spec.metrics, spec.unjudged_metrics) == (("outputs/a.json", "b.csv"), ("debug/*",))
    assert not {"metrics", "unjudged_metrics"} & set(to_plain(load("command: [x]\n")))


def test_flags_override_the_file_and_those_not_given_do_not(load: Load) -> None:
    spec = load(
        "command: python train.py --name 'a b'\nseed: 1\nresources:\n  cpus: 4\nenvironment:\n",
        seed=2,
        resources__gpus="0,1",
        environment__requirements="pylock.toml",
        data=["d"],
        network=None,
    )
    assert spec.command == ("python", "train.py", "--name", "a b")
    assert (spec.seed, spec.resources, spec.data) == (2, ResourceSpec(cpus=4, gpus="0,1"), ("d",))
    assert spec.environment.requirements == "pylock.toml"


@pytest.mark.parametrize(
    ("text", "gpus"), [("all", "all"), ("0", "0"), ("0,1", "0,1"), ("[0, 3]", "0,3"), ("[]", "none")]
)
def test_gpus_are_written_as_people_do(load: Load, text: str, gpus: str) -> None:
    assert load(f"command: x\nresources:\n  gpus: {text}\n").resources.gpus == gpus


def test_an_unknown_key_is_named_with_line_choices_and_suggestion(load: Load) -> None:
    assert lines(load, "command: [python]\nresources:\n  cpu: 2\n") == [
        "reprobox.yaml:3: resources.cpu is not a key of reprobox.yaml",
        "expected one of: gpus, cpus, memory, shm",
        "did you mean cpus?",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("deterministic: no", "deterministic: expected true or false, found no"),
        ("seed: -1", "seed: expected a whole number from 0 to 4294967295, found -1"),
        ("seed: 4294967296", "seed: expected a whole number from 0 to 4294967295, found 4294967296"),
        ("seed: 1e3", "seed: expected a whole number, found 1e3"),
        ("seed: true", "seed: expected a whole number, found true"),
        ("seed:", "seed: expected a whole number, found nothing"),
        ("name: 2024", "name: expected text, found 2024"),
        ("name: Digits CNN", "name: expected lower-case letters, digits, dots, underscores and hyphens, at most 64"),
        ("name: " + "x" * 65, "name: expected lower-case"),
        ("environment: {python: 3.9}", "environment.python: expected a minor version from 3.10 to 3.14, found 3.9"),
        ("environment: {python: 3.11.2}", "environment.python: expected a minor version"),
        ("environment: text", "environment: expected keys and values, found text"),
        ("environment: {requirements: /etc/passwd}", "environment.requirements: expected a path inside the project"),
        ("resources: {gpus: some}", "resources.gpus: expected none, all or indices such as 0,1, found some"),
        ("resources: {cpus: 0}", "resources.cpus: expected a whole number from 1 to 4096, found 0"),
        ("resources: {memory: 8gg}", "resources.memory: expected a size such as 512m, 1.5g or a number of bytes"),
        ("resources: {memory: 0}", "resources.memory: expected a size"),
        ("resources: {shm: 0.0g}", "resources.shm: expected a size"),
        ("data: data/digits", "data: expected a list, found data/digits"),
        ("data: [../other]", "data[0]: expected a path inside the project, relative to it, found ../other"),
        ("data: [a/../../b]", "data[0]: expected a path inside the project"),
        ("data: [.]", "data[0]: expected a path inside the project"),
        ("pythonpath: [../src]", "pythonpath[0]: expected a folder inside the project"),
        ("pythonpath: [/src]", "pythonpath[0]: expected a folder inside the project"),
        ("pythonpath: ['a:b']", "pythonpath[0]: expected a folder inside the project"),
        ("pythonpath: src", "pythonpath: expected a list, found src"),
        ("metrics: [outputs]", "metrics[0]: expected a file inside the project that ends in .json, .jsonl"),
        ("metrics: [../m.json]", "metrics[0]: expected a file inside the project"),
        ("metrics: [/tmp/m.json]", "metrics[0]: expected a file inside the project"),
        ("metrics: m.json", "metrics: expected a list, found m.json"),
        ("unjudged_metrics: ['']", "unjudged_metrics[0]: expected the name of a metric, or a pattern such as debug/*"),
        ("outputs: [out, /tmp/out]", "outputs[1]: expected a path inside the project, relative to it, found /tmp/out"),
        ("image: {base: 'a b'}", "image.base: expected auto, debian"),
        ("image: {apt: [--force]}", "image.apt[0]: expected the name of a Debian package"),
        ("image: {apt: [libgl1=1.6.0]}", "image.apt[0]: expected the name of a Debian package"),
        ("image: {snapshot: 2026-11-01}", "image.snapshot: expected a moment in UTC"),
        *(
            (f"env: [{name}]", "env[0]: expected the name of a variable")
            for name in ("PATH", "MKL_X", "REPROBOX_RECORD")
        ),
        *((f"env: [{name}]", "env[0]: expected the name of a variable") for name in ("1A", "A-B", "PYTHONHASHSEED")),
    ],
)
def test_a_bad_value_is_named_with_its_line_and_what_was_expected(load: Load, text: str, said: str) -> None:
    first = lines(load, f"command: [python]\n{text}\n")[0]
    assert first.startswith(f"reprobox.yaml:2: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("command: 'python \"x'", "command: expected a command line, found one with no closing quotation"),
        ("command: [python, true]", "command[1]: expected text, found true"),
        ("command: 5", "command: expected a list, found 5"),
    ],
)
def test_a_command_that_cannot_be_read_is_named(load: Load, text: str, said: str) -> None:
    assert lines(load, text)[0] == f"reprobox.yaml:1: {said}"


def test_text_in_place_of_a_number_suggests_quotes(load: Load) -> None:
    assert lines(load, "command: [a]\nname: 5\n")[1] == 'did you mean "5" in quotes?'
    assert lines(load, "command: [a]\nname: Früh Stück\n")[1] == "did you mean fruh-stuck?"


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(load: Load) -> None:
    found = lines(load, "command: [python]\nsead: 1\nnetwork: yes\nresources:\n  cpus: many\n")
    assert found[0] == "reprobox.yaml holds 3 mistakes"
    assert [line.split(": ")[0] for line in found if line.startswith("reprobox.yaml:")] == [
        "reprobox.yaml:2",
        "reprobox.yaml:3",
        "reprobox.yaml:5",
    ]
    assert "  did you mean seed?" in found


def test_a_bad_flag_is_named_and_not_the_file(load: Load) -> None:
    said = "expected a whole number from 0 to 4294967295, found -1"
    assert lines(load, "command: [python]\nseed: 1\n", seed=-1) == [f"--seed: {said}"]
    assert lines(load, "command: [python]\n", resources__memory="lots")[0].startswith("--memory: expected a size")
    assert lines(load, "command: [python]\n", outputs=["../x"])[0].startswith("--output: expected a path")


def test_a_section_that_holds_no_keys_is_a_mistake_even_where_a_flag_reaches_into_it(load: Load) -> None:
    assert lines(load, "command: [a]\nresources: 5\n", resources__cpus=2) == [
        "reprobox.yaml:2: resources: expected keys and values, found 5"
    ]


@pytest.mark.parametrize("text", ["name: x\n", "command:\n", "command: []\n", "command: ''\n"])
def test_no_command_is_said_to_be_nothing_to_run(load: Load, text: str) -> None:
    with pytest.raises(SpecError, match="nothing to run") as caught:
        load(text)
    assert caught.value.hint is not None
    assert "reprobox run -- python train.py" in caught.value.hint


def test_who_wants_the_image_alone_needs_no_command(tmp_path: Path) -> None:
    assert load_spec(tmp_path, file=None, overrides={}, need_command=False).command == ()


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no reprobox"):
        load_spec(tmp_path, file=tmp_path / "other.yaml", overrides={"command": ["x"]})


def test_yaml_mistakes_are_spec_errors_with_a_line(load: Load) -> None:
    assert lines(load, "command: [x]\nseed: 1\nseed: 2\n")[0].startswith("reprobox.yaml:3: the key seed stands here")


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("10b", 10), ("512m", 512 << 20), ("8g", 8 << 30), ("1.5G", 3 << 29), ("1KiB", 1024), ("2 tb", 2 << 40)],
)
def test_a_size_is_a_number_and_a_power_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.from_regex(r"[0-9.]{1,6} ?[kmgtKMGTib]{0,3}", fullmatch=True) | st.text(max_size=6))
def test_the_spec_takes_exactly_the_sizes_that_can_be_parsed(text: str) -> None:
    try:
        parsed = parse_size(text) >= 1
    except SpecError:
        parsed = False
    assert RULES[ResourceSpec]["memory"].allows(text) == parsed


@given(st.text(max_size=100))
def test_every_text_has_a_slug_that_is_a_name(text: str) -> None:
    assert RULES[RunSpec]["name"].allows(slug(text))


def test_a_spec_becomes_data_that_gives_the_same_spec_again(load: Load) -> None:
    spec = load("command: [python, train.py]\nresources: {cpus: 2, gpus: all}\ndata: [d]\n")
    again, problems = build(RunSpec, to_plain(spec), RULES)
    assert (again, problems) == (spec, [])
    assert load(write_document(to_plain(spec)).decode()) == spec


def test_what_chooses_among_packages_is_read_from_the_file_and_left_out_where_it_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "reprobox.yaml").write_text(
        "command: [python, x.py]\nenvironment:\n  requirements: pyproject.toml\n  groups: [train]\n  extras: [gpu]\n"
        "  exclude_newer: 2026-05-31\n  torch_backend: cu128\n"
    )
    environment = load_spec(tmp_path, file=None, overrides={}).environment
    assert (environment.groups, environment.extras) == (("train",), ("gpu",))
    assert (environment.exclude_newer, environment.torch_backend) == ("2026-05-31", "cu128")
    plain = load_spec(tmp_path, file=None, overrides={"environment.groups": [], "environment.torch_backend": "cpu"})
    assert "groups" not in to_plain(plain)["environment"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("exclude_newer", "yesterday"), ("torch_backend", "cuda"), ("groups", "[--evil]"), ("extras", "['a b']")],
)
def test_a_choice_among_packages_that_means_nothing_is_refused(tmp_path: Path, field: str, value: str) -> None:
    (tmp_path / "reprobox.yaml").write_text(f"command: [x]\nenvironment:\n  {field}: {value}\n")
    with pytest.raises(SpecError, match=f"environment.{field}"):
        load_spec(tmp_path, file=None, overrides={})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("CPU", "cpu"), ("gpu", "auto"), ("cuda12.8", "cu128"), ("CUDA 12.8.1", "cu128"), ("cu-130", "cu130"),
        ("12.6", "cu126"), ("cuda118", "cu118"), ("rocm 6.3", "rocm6.3"), ("cpuu", "cpu"),
    ],
)  # fmt: skip
def test_a_build_of_pytorch_by_another_name_is_refused_with_the_name_that_was_meant(
    tmp_path: Path, written: str, meant: str
) -> None:
    with pytest.raises(SpecError, match="--torch-backend: expected cpu, auto") as caught:
        load_spec(tmp_path, file=None, overrides={"command": ["x"], "environment.torch_backend": written})
    assert caught.value.details == (f"did you mean {meant}?",)


@pytest.mark.parametrize("written", ["cuda12", "--evil", "mps"])
def test_for_a_build_of_pytorch_that_nobody_can_guess_none_is_suggested(tmp_path: Path, written: str) -> None:
    with pytest.raises(SpecError, match="--torch-backend: expected cpu, auto") as caught:
        load_spec(tmp_path, file=None, overrides={"command": ["x"], "environment.torch_backend": written})
    assert caught.value.details == ()


def test_a_misspelt_command_is_named_before_it_is_said_to_be_missing(load: Load) -> None:
    assert lines(load, "comand: [python, train.py]\n")[0].startswith("reprobox.yaml:1: comand is not a key")
