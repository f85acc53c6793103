"""The documentation says what is true: commands exist, links lead somewhere, and the walkthroughs' code works."""

from __future__ import annotations

import json
import re
import statistics
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from typed import parse

import mibench
from mibench.cli import cli
from mibench.metrics import METRICS
from mibench.protocol.tracks import Track
from mibench.records import numbered
from mibench.registry import Registry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULT = re.compile(r"<!-- result:begin -->.*?<!-- result:end -->", re.DOTALL)  # printed by a run, not written by us

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page: Path) -> str:
    return RESULT.sub("", page.read_text(encoding="utf-8"))


def fenced(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def typed(page: Path) -> list[str]:
    """The lines of indented blocks: what a reader types into a shell."""
    lines = re.sub(r"^```.*?^```$", "", prose(page), flags=re.DOTALL | re.MULTILINE).splitlines()
    return [part.strip() for line in lines if line.startswith("    ") for part in line.split("&&")]


def commands() -> list[str]:
    names = []
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        names += [f"{name} {sub}" for sub in command.commands] if isinstance(command, click.Group) else [name]
    return names


# --- commands ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", commands())
def test_every_command_is_documented(command: str) -> None:
    assert any(re.search(rf"\bmibench {command}\b", prose(page)) for page in PAGES)


def in_blocks(page: Path) -> list[str]:
    return [line for line in typed(page) if line.startswith("mibench ")]


def in_sentences(page: Path) -> list[str]:
    return re.findall(r"`(mibench [^`]+)`", prose(page))


@pytest.mark.parametrize("page", [page for page in PAGES if in_blocks(page)], ids=lambda page: page.name)
def test_commands_in_shell_blocks_parse(page: Path) -> None:
    for line in in_blocks(page):
        parse(line)


@pytest.mark.parametrize("page", [page for page in PAGES if in_sentences(page)], ids=lambda page: page.name)
def test_commands_in_sentences_parse(page: Path) -> None:
    for text in in_sentences(page):
        with suppress(click.MissingParameter):  # a sentence may name a command without its arguments
            parse(text)


@pytest.mark.parametrize("text", ["mibench rum", "mibench run --defence re", "mibench site bild", "mibench show"])
def test_parse_refuses_what_the_program_would_refuse(text: str) -> None:
    with pytest.raises(click.UsageError):
        parse(text)


def test_the_readme_starts_with_the_two_commands() -> None:
    assert typed(ROOT / "README.md")[:4] == [
        "pip install -e .",
        "mibench run --defense re --attack kedmi",
        "pip install -e '.[test]'",
        "pytest",
    ]


def test_the_readme_lists_what_the_registry_has() -> None:
    registry = Registry()
    names = [*registry.tracks, *(name for kind in ("defense", "attack", "prior") for name in registry.entries(kind))]
    assert [name for name in names if f"`{name}`" not in README] == []


@pytest.mark.parametrize("kind", ["attack", "defense"])
def test_the_page_of_a_kind_has_a_row_for_each_method(kind: Any) -> None:
    text = prose(ROOT / "docs" / f"{kind}s.md")
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    competing = [name for name, entry in Registry().entries(kind).items() if kind == "defense" or not entry.control]
    assert [name for name in competing if not any(f"`{name}`" in row for row in rows)] == []


def test_the_protocol_explains_every_metric_and_track() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert [name for name in (*METRICS, *Registry().tracks) if f"`{name}`" not in text] == []


def test_the_metrics_page_says_of_each_what_it_means_and_what_not() -> None:
    parts = re.split(r"^## ", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    by_title = {part.partition("\n")[0]: part for part in parts}
    assert [name for name in METRICS if name not in by_title] == []
    same = {"att5_selected", "d_eval"}  # "the same over the selected images"
    for name in METRICS.keys() - same:
        assert "**Means:**" in by_title[name] and "**Does not mean**" in by_title[name], name


def test_what_to_cite_is_one_thing() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    [entry] = fenced("citing.md", "bibtex")
    assert f"{{{citation['title']}}}" in entry and f"{{{citation['version']}}}" in entry


def test_the_protocol_states_the_numbers_of_the_default_track() -> None:
    text = " ".join((ROOT / "docs" / "protocol.md").read_text(encoding="utf-8").split())
    track, registry = Registry().track("orl32"), Registry()
    private, total = track.private, track.private.train_per_identity + track.private.test_per_identity
    small = {name: registry.values(registry.select("attack", name), track) for name in ("gmi", "kedmi", "ppa")}
    for sentence in (
        f"| `orl32` | {private.identities} people, 32x32 grey | "
        f"{private.train_per_identity} / {private.test_per_identity} "
        f"| {track.public.images:,} | 1/{private.identities} |",
        f"{private.identities * private.train_per_identity} and {private.identities * private.test_per_identity}",
        f"batch {track.target.batch}, {track.target.epochs} epochs",
        f"trained for {track.evaluator.epochs} epochs on all {private.identities * total} private images",
        f"All {len(track.identities)} identities, {track.attack.images_per_identity} images asked for each",
        f"GMI {small['gmi']['iterations']} steps",
        f"KEDMI {small['kedmi']['iterations']} steps",
        f"a pool of {small['ppa']['pool']:,} latents, {4 * track.attack.images_per_identity} candidates of "
        f"{small['ppa']['iterations']} steps per identity, of which {track.attack.images_per_identity} are kept after "
        f"{small['ppa']['selection_views']} transformed views",
    ):
        assert sentence in text


def test_presets_are_the_trials_that_won() -> None:
    """What scripts/tune.py recorded, what protocol.md shows of it, and what the registry runs by itself."""
    found = json.loads((ROOT / "benchmarks" / "results" / "tuning-orl32.json").read_text())
    registry, text = Registry(), (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert found["seeds"] == [100, 101, 102] and found["version"] == registry.track("orl32").version
    trials = yaml.safe_load((ROOT / "scripts" / "trials-orl32.yaml").read_text())
    assert list(trials) == list(found["attacks"])
    for attack, block in found["attacks"].items():
        assert [row["values"] for row in block["trials"]] == trials[attack]
        means = [statistics.fmean(row["att_maj"]) for row in block["trials"]]
        assert block["chosen"] == means.index(max(means))
        won = dict(block["trials"][block["chosen"]]["values"])
        entry = registry.entry("attack", attack)
        if (prior := won.pop("prior", None)) is not None:
            assert entry.prior and registry.entry("prior", entry.prior).presets["faces32"] == prior
        assert entry.presets.get("faces32", {}) == won
        for index, row in enumerate(block["trials"]):
            shown = f"| {f'**{attack}**' if index == block['chosen'] else attack} | `"
            assert f"| {100 * means[index]:.1f} | " in text and shown in text, row


# --- text ----------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_links_within_the_repository_resolve(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        inside = target.resolve().is_relative_to(ROOT)
        if not inside or not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@each_page
def test_no_absolute_paths(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"(?<![\w.:/])/(?:bin|etc|home|mnt|opt|root|srv|tmp|usr|Users|var|work)\b|[A-Z]:\\", text) == []


def test_the_citation_file_is_complete() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == mibench.__version__
    assert all("name" in author or "family-names" in author for author in citation["authors"])


def test_the_licence_is_the_one_declared() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


# --- the walkthroughs ----------------------------------------------------------------------------------------------


@pytest.fixture
def documented(tmp_path: Path) -> Registry:
    """A registry with the methods of the walkthroughs, as if their blocks had been pasted, and a tiny track."""
    root = tmp_path / "checkout"
    data = yaml.safe_load((ROOT / "registry.yaml").read_text(encoding="utf-8"))
    for kind, page in (("defenses", "add-a-defense.md"), ("attacks", "add-an-attack.md")):
        (root / kind).mkdir(parents=True)
        entry = yaml.safe_load(fenced(page, "yaml")[0])
        [name] = entry
        assert f"`{kind}/{name}.py`" in (ROOT / "docs" / page).read_text(encoding="utf-8")
        (root / kind / f"{name}.py").write_text(fenced(page, "python")[0], encoding="utf-8")
        data[kind] |= entry
    (root / "defenses" / "none.py").write_bytes((ROOT / "defenses" / "none.py").read_bytes())
    data["priors"]["dcgan"]["presets"]["tiny"] = {"steps": 2, "batch": 4, "width": 2}
    data["attacks"]["search"]["presets"]["tiny"] = {"draws": 3}
    tiny: dict[str, Any] = dict(data["tracks"]["synthfaces"], preset="tiny", metrics=["nat1", "att1", "att1_step0"])
    del tiny["split"]
    tiny["private"] = {"identities": 3, "train_per_identity": 2, "test_per_identity": 2}
    tiny["public"] = {"images": 12, "identities": 4, "labelled": True}
    tiny["target"] = dict(tiny["target"], epochs=2, batch=4)
    tiny["evaluator"] = dict(tiny["evaluator"], epochs=1, batch=4)
    data["tracks"]["tiny"] = tiny
    (root / "registry.yaml").write_text(json.dumps(data), encoding="utf-8")
    return Registry(root)


def test_the_walkthroughs_methods_run(documented: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mibench.planning.plan import Stage
    from mibench.running.order import Order
    from mibench.running.request import build_plan
    from mibench.running.worker import compute as carry_out
    from mibench.store.artifacts import Manifest, Store

    monkeypatch.setenv("MIBENCH_ROOT", str(documented.root))  # a worker reads the registry itself
    track, store = documented.track("tiny"), Store(tmp_path / "home")
    defense = documented.select("defense", "confpen[strong]")
    plan = build_plan(documented, track, [defense], [documented.select("attack", "search")], numbered(1))

    def compute(stage: Stage) -> Manifest:
        carry_out(Order(home=store.home, device="cpu", stage=stage), lambda event: None)
        manifest = store.manifest(stage.kind, stage.key)
        assert manifest is not None
        return manifest

    done = {key: compute(stage) for key, stage in plan.stages.items()}
    stages = {run.cell.defense.id: run.stages for run in plan.runs}
    assert stages.keys() == {"none", "confpen"} and stages["confpen"]["target"].params == {"beta": 1.0}
    for stage in stages.values():
        assert done[stage["evaluate"].key].result["metrics"]["att1"]["n"] == 3 * track.attack.images_per_identity
        queries = done[stage["invert"].key].result["queries"]
        assert queries["0"]["optimisation"]["forward"] == 3 * track.attack.images_per_identity


def test_the_walkthroughs_track_is_pinned_as_written() -> None:
    from mibench.data import fingerprint

    section, pin = fenced("add-a-track.md", "yaml")
    [(name, fields)] = yaml.safe_load(section).items()
    track = Track(id=name, **fields, **yaml.safe_load(pin))
    assert fingerprint(track) == track.split
    assert len(track.identities) == 60 and set(track.metrics) <= METRICS.keys()
