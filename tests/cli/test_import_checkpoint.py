"""``mibench import-checkpoint`` as a user types it, and runs with what it imported."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import Cli, images
from torch import Tensor, nn

from mibench.nets.gan import GmiCritic, GmiGenerator, KedmiDiscriminator

PKL = Path(__file__).parents[1] / "parity" / "data" / "stylegan2_tiny.pkl"


@pytest.fixture
def cli(finished: Cli, tmp_path: Path) -> Cli:
    """A copy of the finished home."""
    return finished.copy(tmp_path)


def printed_command(text: str) -> list[str]:
    [line] = [line.strip() for line in text.splitlines() if line.strip().startswith("mibench run ")]
    return shlex.split(line)[2:]


def on_tiny(command: list[str]) -> list[str]:
    """The printed command on the track of the tests."""
    at = command.index("--track") if "--track" in command else None
    return command if at is None else command[:at] + command[at + 2 :]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def write(net: nn.Module, path: Path, names: dict[str, str]) -> dict[str, Tensor]:
    """Save a network as it is distributed: under the published names, behind ``module.``, in a legacy ``.tar``."""

    def published(key: str) -> str:
        for theirs, ours in names.items():
            if f"{key}.".startswith(f"{ours}."):
                return theirs + key.removeprefix(ours)
        return key

    state = {published(key): value for key, value in net.state_dict().items()}
    content = {"state_dict": {f"module.{key}": value for key, value in state.items()}}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return net.state_dict()


def test_stylegan2_from_the_published_file_to_reconstructions(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "secret-folder" / "tiny.pkl"
    file.parent.mkdir()
    shutil.copy(PKL, file)
    first = cli("import-checkpoint", str(file), "--as", "stylegan2", "--name", "my generator").stdout
    stored = tree(cli.home / "weights")
    assert len(stored) == 2 and all(b"secret-folder" not in content for content in stored.values())
    again = cli("import-checkpoint", str(file), "--as", "stylegan2").stdout
    assert tree(cli.home / "weights") == stored
    assert "(was there already)" in again and printed_command(again) == printed_command(first)
    told = json.loads(cli("import-checkpoint", str(file), "--as", "stylegan2", "--json").stdout)
    assert told["new"] is False and told["settings"]["img_resolution"] == 64 and told["file"] == "tiny.pkl"
    listed = cli("import-checkpoint", "--list").stdout
    assert f"{told['id']}  stylegan2  tiny.pkl  {PKL.stat().st_size:,} bytes  my generator" in listed
    assert json.loads(cli("import-checkpoint", "--list", "--json").stdout)["imported"][0]["id"] == told["id"]

    before = images(cli)
    answer = cli.run(*printed_command(first))
    assert [run["status"] for run in answer["runs"]] == ["done"]
    made = {name: content for name, content in images(cli).items() if name not in before}
    assert len(made) >= 5 * 2 and len(set(made.values())) > 2
    [manifest] = [
        json.loads(path.read_text())
        for path in cli.home.glob("store/prior/*/*/manifest.json")
        if json.loads(path.read_text())["plugin"] == "stylegan2"
    ]
    assert manifest["params"]["weights"] == told["id"] and manifest["params"]["centre_crop"] is None
    assert cli.run(*printed_command(first))["runs"][0]["cached"] is True


def test_stylegan2_without_weights_is_skipped_with_the_reason(cli: Cli) -> None:
    done = cli("run", "--track", "tiny", "--device", "cpu", "--attack", "ppa[prior=stylegan2]", "--quiet")
    assert "Skipped none + ppa[prior=stylegan2]: StyleGAN2 is unavailable" in done.stderr
    assert "mibench import-checkpoint FILE --as stylegan2" in done.stderr


def test_a_priors_preset_can_be_named(cli: Cli) -> None:
    options = (
        "--attack",
        "ppa[prior=stylegan2[afhqdog]]",
        "--set",
        "attack.prior_params={weights: '0123456789abcdef'}",
    )
    stages = json.loads(cli("plan", "--track", "synthfaces", *options, "--json").stdout)["stages"]
    [params] = [stage["params"] for stage in stages if stage["kind"] == "prior"]
    assert (params["img_resolution"], params["centre_crop"], params["weights"]) == (512, None, "0123456789abcdef")
    wrong = cli("plan", "--track", "tiny", "--attack", "ppa[prior=stylegan2[cats]]", code=2).stderr
    assert "Unknown preset of stylegan2 'cats'" in wrong


@pytest.mark.parametrize("attack", ["gmi", "kedmi"])
def test_a_gans_two_files_replace_its_training(cli: Cli, tmp_path: Path, attack: str) -> None:
    torch.manual_seed(8)
    generator = GmiGenerator(32, 1, width=4, latent_dim=6)
    critic: nn.Module = GmiCritic(32, 1, width=4)
    other = "gmi_critic"
    if attack == "kedmi":
        critic, other = KedmiDiscriminator(5, 32, 1, width=4, mbd=(3, 2)), "kedmi_discriminator"
    inside = write(generator, tmp_path / "G.tar", GmiGenerator.published_names)
    inside_critic = write(critic, tmp_path / "D.tar", type(critic).published_names)
    lonely = cli("import-checkpoint", str(tmp_path / "G.tar"), "--as", attack).stdout
    assert f"ID_OF_{other.upper()}" in lonely and f"import the other file with --as {other}." in lonely
    told = cli("import-checkpoint", str(tmp_path / "D.tar"), "--as", other).stdout
    track = "orl32" if attack == "gmi" else "mnist"  # the first whose images, and for KEDMI classes, fit
    assert "ID_OF_" not in told and f"--track {track} " in told
    answer = cli.run(*on_tiny(printed_command(told)))
    assert [run["status"] for run in answer["runs"]] == ["done"]
    [folder] = priors_with_weights(cli)
    stored = load_file(folder / "model.safetensors")
    for prefix, state in (("generator", inside), ("critic", inside_critic)):
        for name, value in state.items():
            assert torch.equal(stored[f"{prefix}.{name}"], value), name


def priors_with_weights(cli: Cli) -> list[Path]:
    paths = cli.home.glob("store/prior/*/*/manifest.json")
    return [path.parent for path in paths if json.loads(path.read_text())["params"].get("weights")]


def test_weights_that_do_not_fit_the_track_are_said(cli: Cli, tmp_path: Path) -> None:
    write(GmiGenerator(64, 3, width=4, latent_dim=6), tmp_path / "G.tar", GmiGenerator.published_names)
    write(GmiCritic(64, 3, width=4), tmp_path / "D.tar", GmiCritic.published_names)
    cli("import-checkpoint", str(tmp_path / "D.tar"), "--as", "gmi_critic")
    told = cli("import-checkpoint", str(tmp_path / "G.tar"), "--as", "gmi").stdout
    assert "TRACK: a track of 64x64 images in 3 channels. None is registered" in told
    failed = cli("run", "--track", "tiny", "--device", "cpu", *on_tiny(printed_command(told)), code=None)
    assert failed.returncode in (1, 2)
    said = " ".join((failed.stdout + failed.stderr).split())
    assert "do not fit the images, classes or sizes of track 'tiny'" in said and "wrong shape" in said
    one = ("--set", "attack.prior_params={weights: '0123456789abcdef'}")
    error = cli("run", "--track", "tiny", "--attack", "gmi", *one, code=2).stderr
    assert "expected weights and critic_weights, or neither" in error
    both = ("--set", "attack.prior_params={weights: '0123456789abcdef', critic_weights: '0123456789abcdef'}")
    missing = cli("run", "--track", "tiny", "--device", "cpu", "--attack", "gmi", *both, code=None)
    assert missing.returncode in (1, 3)
    assert "No imported weights have the id '0123456789abcdef'" in " ".join((missing.stdout + missing.stderr).split())


@pytest.mark.parametrize(
    ("content", "arguments", "code", "said"),
    [
        (b"", ["--as", "gmi"], 2, "file.tar cannot be imported as gmi. It is empty"),
        (b"<!DOCTYPE html><title>Sign in</title>", ["--as", "gmi"], 2, "It is a web page, 'Sign in'"),
        (b"version https://git-lfs.github.com/spec/v1", ["--as", "plgmi"], 2, "Git LFS pointer"),
        (PKL.read_bytes()[:50_000], ["--as", "stylegan2"], 2, "damaged or cut off"),
        (PKL.read_bytes(), ["--as", "vgg16"], 2, "It fits --as stylegan2"),
        (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00echo\x85R.", ["--as", "stylegan2"], 2, "asks for os.system"),
        (b"x", ["--as", "stylegan3"], 2, "Unknown kind of checkpoint 'stylegan3'. Did you mean 'stylegan2'"),
        (b"x", [], 2, "Expected --as KIND, one of: gmi, "),
        (None, ["--as", "gmi"], 3, "There is no checkpoint file"),
    ],
)
def test_bad_input_is_a_sentence_and_stores_nothing(
    finished: Cli, tmp_path: Path, content: bytes | None, arguments: list[str], code: int, said: str
) -> None:
    cli = Cli(tmp_path / "home", finished.root)
    if content is not None:
        (tmp_path / "file.tar").write_bytes(content)
    assert said in cli("import-checkpoint", str(tmp_path / "file.tar"), *arguments, code=code).stderr
    assert not list(cli.home.rglob("*.safetensors"))


def test_no_file_and_nothing_imported(finished: Cli, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home", finished.root)
    assert "Expected a FILE, or --list" in cli("import-checkpoint", code=2).stderr
    listed = cli("import-checkpoint", "--list").stdout
    assert listed.startswith("Nothing was imported yet.\nkinds:\n  gmi ")


def test_damaged_weights_are_listed_and_mended_by_importing_again(cli: Cli) -> None:
    cli("import-checkpoint", str(PKL), "--as", "stylegan2")
    [stored] = (cli.home / "weights").glob("*.safetensors")
    whole = stored.read_bytes()
    stored.write_bytes(whole[:-4])
    assert f"{stored.stem}  damaged" in cli("import-checkpoint", "--list", code=3).stdout
    assert "was there already" not in cli("import-checkpoint", str(PKL), "--as", "stylegan2").stdout
    assert stored.read_bytes() == whole
