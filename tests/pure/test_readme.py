"""README and the files that platforms read agree with the settings."""

import re
import shlex
import tomllib
from importlib import metadata
from itertools import product
from pathlib import Path

from packaging.specifiers import SpecifierSet

from server.settings import Settings, table

ROOT = Path(__file__).resolve().parents[2]
DEBIAN_12_PYTHON = "3.11.2"


def settings_section() -> str:
    _, _, rest = (ROOT / "README.md").read_text().partition("\n## Settings\n")
    return re.split(r"\n## ", rest)[0]


def test_every_setting_is_in_readmes_table_with_its_default_and_meaning() -> None:
    section = settings_section()
    for row in table():
        default = f"`{row.default}`" if row.default else ""
        assert f"| `{row.variable}` | {default} | {row.meaning} |" in section


def test_readmes_table_names_no_setting_that_does_not_exist() -> None:
    named = re.findall(r"^\| `([A-Z_]+)` \|", settings_section(), re.MULTILINE)
    assert named == [row.variable for row in table()]


def test_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    for command in ("local/run", "local/test"):
        assert command in text
        assert (ROOT / command).stat().st_mode & 0o111


def test_architecture_names_tests_and_files_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / link).exists()
    folders = dict(re.findall(r"\b([ACKPB])(?: is)? `(tests/[a-z]+)/test_`", text))
    named = re.findall(r"([ACKPB](?:, [ACKPB])*) ((?:`[a-z_*]+`(?:, )?)+)", text)
    assert len(named) > 20
    for letters, names in named:
        for letter, name in product(letters.split(", "), re.findall("`(.+?)`", names)):
            assert list((ROOT / folders[letter]).glob(f"test_{name}.py")), f"{letter}: {name}"


def test_railway_starts_what_procfile_says_and_waits_longer_than_a_worker_may_take() -> None:
    deploy = tomllib.loads((ROOT / "railway.toml").read_text())["deploy"]
    procfile = (ROOT / "Procfile").read_text()
    assert procfile == f"web: exec {deploy['startCommand']}\n"  # else a runner's shell keeps the signals
    assert shlex.split(deploy["startCommand"])[0] == "gunicorn"
    assert deploy["healthcheckPath"] == "/readyz"
    assert deploy["drainingSeconds"] > Settings().graceful_s


def pins() -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for each in project["dependencies"] + extras["local"] + extras["test"]:
        assert re.split(r"[\[<>=]", each)[0].lower().replace("_", "-") in pins()


def test_every_pinned_release_that_is_installed_runs_on_the_python_of_debian_12() -> None:
    for each in metadata.distributions():
        name, needed = each.metadata["Name"], each.metadata["Requires-Python"]
        if needed and pins().get(name.lower().replace("_", "-")) == each.version:
            assert SpecifierSet(needed).contains(DEBIAN_12_PYTHON), (name, each.version, needed)
