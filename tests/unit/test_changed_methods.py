"""What a pull request changes, as the workflow asks; and the workflows themselves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from typed import parse

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
REGISTRY = {"schema": 1, "defenses": {"re": {"title": "a"}, "bido": {"title": "b"}}, "attacks": {"gmi": {"title": "c"}}}


class Change:
    """A repository with two commits, the second the proposed change, and what the script says of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "proposed"
        self.folder.mkdir()
        self.git("init", "-q")
        self.write("registry.yaml", yaml.safe_dump(REGISTRY))
        for name in ("defenses/re.py", "defenses/bido.py", "attacks/gmi.py", "results/a/submission.json", "other.py"):
            self.write(name, "old\n")
        self.write("results/a/stages/x.json", "{}\n")
        self.commit()

    def git(self, *words: str) -> bytes:
        identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return subprocess.run(
            ["git", "-C", str(self.folder), *words], env=os.environ | identity, check=True, stdout=subprocess.PIPE
        ).stdout

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "x")

    def lines(self, code: int = 0) -> Any:
        """The lines that are printed, or, with another exit code, the error."""
        self.commit()
        diff, before = self.folder.with_name("changed.bin"), self.folder.with_name("before.yaml")
        diff.write_bytes(self.git("diff", "--name-status", "--no-renames", "-z", "HEAD~1...HEAD"))
        before.write_bytes(self.git("show", "HEAD~1:registry.yaml"))
        script = [sys.executable, str(GITHUB / "changed_methods.py")]
        options = ["--diff", str(diff), "--before", str(before), "--root", str(self.folder)]
        done = subprocess.run([*script, *options], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if code else done.stdout.splitlines()


@pytest.fixture
def change(tmp_path: Path) -> Change:
    return Change(tmp_path)


def test_files_and_entries_name_methods(change: Change) -> None:
    change.write("defenses/re.py", "new\n")
    change.write("attacks/mine.py", "new\n")
    change.write("other.py", "new\n")
    entries = {**REGISTRY, "defenses": REGISTRY["defenses"] | {"bido": {"title": "new"}}}  # type: ignore[operator]
    change.write("registry.yaml", yaml.safe_dump(entries))
    assert change.lines() == ["attack mine", "defense bido", "defense re"]


def test_removed_and_renamed_methods(change: Change) -> None:
    (change.folder / "attacks/gmi.py").unlink()
    (change.folder / "defenses/bido.py").rename(change.folder / "defenses/bido2.py")
    assert change.lines() == ["defense bido2"]


def test_submissions_and_results(change: Change) -> None:
    change.write("results/a/stages/x.json", "[]\n")
    change.write("results/lab/b/submission.json", "{}\n")
    change.write("results/lab/b/images/1.png", "")
    change.write("results/orl32.json", "{}\n")
    assert change.lines() == ["results results/orl32.json", "submission results/a", "submission results/lab/b"]


def test_a_file_taken_out_of_a_submission_is_a_change(change: Change) -> None:
    (change.folder / "results/a/stages/x.json").unlink()
    assert change.lines() == ["submission results/a"]


def test_a_removed_submission_is_none(change: Change) -> None:
    for name in ("stages/x.json", "submission.json"):
        (change.folder / "results/a" / name).unlink()
    assert change.lines() == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("defenses/a b.py", "not a file name"),
        ("defenses/$(id).py", "not a file name"),
        ("defenses/x\ndefense re.py", "not a file name"),
        ("attacks/..x.py", "not a file name"),
        ("attacks/UPPER.py", "is called by"),
        ("attacks/-rf.py", "not a file name"),
        ("attacks/deep/x.py", "one file directly"),
        ("results/b/x.json", "lies in no submission"),
    ],
)
def test_what_could_be_misread_is_refused(change: Change, name: str, why: str) -> None:
    change.write(name, "x\n")
    assert why in change.lines(code=2)


@pytest.mark.parametrize("link", ["defenses/link.py", "results/b"])
def test_links_are_refused(change: Change, link: str) -> None:
    (change.folder / link).symlink_to("../other.py")
    assert "is a link" in change.lines(code=2)


def test_a_registry_that_is_none_is_refused(change: Change) -> None:
    change.write("registry.yaml", "[]\n")
    assert "no mapping" in change.lines(code=2)


def test_a_name_in_the_registry_is_refused(change: Change) -> None:
    change.write("registry.yaml", yaml.safe_dump(REGISTRY | {"defenses": {"x; id": {}}}))
    assert "is called by" in change.lines(code=2)


# --- the workflows -------------------------------------------------------------------------------------------------


def workflow(name: str) -> dict[Any, Any]:
    data: dict[Any, Any] = yaml.safe_load((GITHUB / "workflows" / name).read_text(encoding="utf-8"))
    return data


def steps(data: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in data["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_hold_no_secrets_and_may_only_read(path: Path) -> None:
    data, text = workflow(path.name), path.read_text(encoding="utf-8")
    assert "secrets." not in text and "pull_request_target" not in data[True]  # YAML reads the key `on` as true
    rights = [data["permissions"], *(job.get("permissions", {}) for job in data["jobs"].values())]
    assert all(right in ({}, {"contents": "read"}) for right in rights)
    for step in steps(data):
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@(v\d+|[0-9a-f]{40})", step["uses"])
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
        if "run" in step:  # what a pull request says of itself must not become shell code
            assert "${{" not in step["run"]
            assert subprocess.run(["bash", "-n"], input=step["run"], text=True).returncode == 0


def test_the_code_of_a_method_runs_without_a_network() -> None:
    runs = [step["run"] for step in steps(workflow("submission.yml")) if "run" in step]
    [alone] = re.findall(r"exec docker run (.*?)\"\$@\"", "\n".join(runs), re.DOTALL)
    for option in ("--network none", "--read-only", "--user 65534", "--cap-drop ALL", "no-new-privileges"):
        assert option in alone
    assert all(":ro" in mount for mount in re.findall(r"-v (\S+)", alone))
    commands = [line for run in runs for line in run.splitlines() if re.search(r"\bmibench (check|submit)", line)]
    assert len(commands) == 2 and all(line.strip().startswith("./alone ") for line in commands)


def test_the_commands_of_the_workflow_exist() -> None:
    text = (GITHUB / "workflows" / "submission.yml").read_text(encoding="utf-8")
    found = re.findall(r"bin/(mibench [^<|]+)", text)
    assert len(found) == 2
    for command in found:
        parse(command.replace("$what", "defense").replace("$name", "re"))


def test_the_commands_of_the_templates_exist() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted(GITHUB.rglob("*TEMPLATE*/*.yml"))]
    texts.append((GITHUB / "PULL_REQUEST_TEMPLATE.md").read_text(encoding="utf-8"))
    found = re.findall(r"\b(mibench [^`\"]+)[`\"]", "\n".join(texts))
    assert len(found) >= 5
    for command in found:
        with suppress(click.MissingParameter):
            parse(command)


def test_the_workflow_listens_to_what_a_submission_touches() -> None:
    paths = workflow("submission.yml")[True]["pull_request"]["paths"]
    assert set(paths) == {"defenses/**", "attacks/**", "registry.yaml", "results/**"}


def test_ci_calls_the_script_that_everybody_runs() -> None:
    assert any(".ci/run" in step.get("run", "") for step in steps(workflow("ci.yml")))
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("path", sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name)
def test_issue_templates_are_forms(path: Path) -> None:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        assert data.keys() <= {"blank_issues_enabled", "contact_links"}
        return
    assert {"name", "description", "body"} <= data.keys() <= {"name", "description", "title", "labels", "body"}
    ids = [part["id"] for part in data["body"] if part["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 0
    for part in data["body"]:
        assert part["type"] in ("markdown", "input", "textarea", "dropdown", "checkboxes")
        assert "value" in part["attributes"] if part["type"] == "markdown" else part["attributes"]["label"]
        assert part["type"] != "dropdown" or len(part["attributes"]["options"]) > 1


def test_there_is_a_template_per_kind_of_submission() -> None:
    names = {path.stem for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml")}
    assert {"new-defense", "new-attack", "new-track", "reproduction", "bug"} <= names
