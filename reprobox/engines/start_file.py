"""The files by which Python starts the runtime of a run, written with the paths as the program sees them."""

from __future__ import annotations

from pathlib import Path

from reprobox.runtime import protocol

START_FOLDER = "start"
PTH_FILE = "reprobox.pth"
_START_FILE = "sitecustomize.py"


def write_start_files(folder: Path, *, site: str, record: str, further: str = "") -> None:
    """Write into `folder` the start file, alone in a folder of its own, and the `.pth` file that runs it.

    `site` is where the program sees `folder`, which holds the runtime too, `record` where it sees the record folder;
    `further` are more lines for the `.pth` file.
    """
    template = Path(protocol.__file__).parent / "bootstrap" / "start_file.py"
    text = template.read_text(encoding="utf-8")
    for name, path in (("@SITE@", site), ("@RECORD@", record)):
        text = text.replace(f'"{name}"', ascii(path))
    (folder / START_FOLDER).mkdir(parents=True, exist_ok=True)
    (folder / START_FOLDER / _START_FILE).write_text(text, encoding="utf-8")
    # One line, which site executes because of its first word. Environments that a program makes outlive the run.
    place = ascii(f"{site}/{START_FOLDER}/{_START_FILE}")
    line = (
        f"import importlib.machinery, os; os.path.exists({place}) and exec("
        f"importlib.machinery.SourceFileLoader('reprobox_start', {place}).get_code('reprobox_start'), "
        "{'__name__': 'reprobox_start'})\n"
    )
    (folder / PTH_FILE).write_text(line + further, encoding="utf-8")
