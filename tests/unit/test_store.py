"""The artefact store, atomic writes and resumable state: whole or absent, whatever interrupts them."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mibench.errors import MissingError, UserError
from mibench.keys import digest
from mibench.store import atomic
from mibench.store.artifacts import STATE, Damaged, Manifest, Store, home
from mibench.store.manifest import FILE
from mibench.store.state import load_state, save_state

ROOT = Path(__file__).parents[2]
KEY = digest("target")


def _manifest(key: str = KEY, kind: str = "target", **overrides: Any) -> Manifest:
    values: dict[str, Any] = {
        "plugin": "re",
        "version": 1,
        "params": {"area": [0.1, 0.4]},
        "non_default": {},
        "seed": 0,
        "track": "orl32",
        "track_version": 1,
        "inputs": {"prior": digest("prior")},
        "seconds": 1.5,
        "started": "2026-01-01T00:00:00Z",
        "result": {"nat1": 0.9},
    }
    return Manifest(kind=kind, key=key, **(values | overrides))


def _publish(store: Store, key: str = KEY, kind: str = "target", content: bytes = b"weights") -> Path:
    with store.claim(kind, key) as claim:
        (claim.workdir / "images").mkdir()
        (claim.workdir / "model.safetensors").write_bytes(content)
        (claim.workdir / "images" / "0.png").write_bytes(b"image")
        return store.publish(kind, key, claim.workdir, _manifest(key, kind))


def test_home_is_the_variable_or_the_user_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.setenv("MIBENCH_HOME", "")
    assert home().name == "mibench"


def test_the_store_needs_no_torch() -> None:
    names = "mibench.store.artifacts, mibench.store.db, mibench.store.state"
    code = f"import sys, {names}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_published_artefact_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.manifest("target", KEY) is None
    assert not any(tmp_path.iterdir()), "reading creates nothing"
    path = _publish(store)
    assert path == tmp_path / "store" / "target" / KEY[:2] / KEY
    manifest = store.manifest("target", KEY, verify=True)
    assert manifest is not None
    assert manifest.outputs.keys() == {"model.safetensors", "images/0.png"}
    assert manifest.outputs["model.safetensors"]["bytes"] == 7
    assert replace(manifest, outputs={}) == _manifest()
    assert list(store.manifests()) == [manifest]
    assert store.damaged(verify=True) == []
    assert list((tmp_path / "work").iterdir()) == []


def test_state_and_temporary_files_are_not_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim("target", KEY) as claim:
        save_state(claim.workdir / STATE, 3, {"x": torch.ones(2)})
        atomic.temporary(claim.workdir / "model.safetensors").write_bytes(b"half")
        (claim.workdir / "model.safetensors").write_bytes(b"whole")
        path = store.publish("target", KEY, claim.workdir, _manifest())
    assert sorted(file.name for file in path.iterdir()) == [FILE, "model.safetensors"]


def test_work_folder_survives_an_interrupted_claim(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.claim("target", KEY) as claim:
        save_state(claim.workdir / STATE, 7, [1])
        raise KeyboardInterrupt
    with store.claim("target", KEY) as claim:
        assert claim.manifest is None
        assert load_state(claim.workdir / STATE) == (7, [1])


def test_publishing_twice_keeps_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _publish(store, content=b"first")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"second")
    path = store.publish("target", KEY, folder, _manifest())
    assert (path / "model.safetensors").read_bytes() == b"first"
    assert not folder.exists()


def test_a_damaged_artefact_that_came_in_between_is_set_aside(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim("target", KEY) as claim:
        (claim.workdir / "model.safetensors").write_bytes(b"ours")
        store.path("target", KEY).mkdir(parents=True)
        (store.path("target", KEY) / "model.safetensors").write_bytes(b"theirs, without a manifest")
        path = store.publish("target", KEY, claim.workdir, _manifest())
    assert (path / "model.safetensors").read_bytes() == b"ours"
    [aside] = (tmp_path / "damaged").iterdir()
    assert (aside / "model.safetensors").read_bytes().startswith(b"theirs")
    assert not list(store.work.iterdir())


def test_second_process_waits_and_finds_the_artefact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", _CLAIM_AND_PUBLISH, str(tmp_path), KEY], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    notes: list[str] = []
    with store.claim("target", KEY, on_wait=lambda: notes.append("waiting")) as claim:
        assert notes == ["waiting"]
        assert claim.manifest is not None
    assert child.wait() == 0
    assert not list((tmp_path / "work").iterdir())


_CLAIM_AND_PUBLISH = """
import sys, time
from mibench.store.artifacts import Manifest, Store
store, key = Store(sys.argv[1]), sys.argv[2]
with store.claim("target", key) as claim:
    print("claimed", flush=True)
    time.sleep(0.5)
    (claim.workdir / "model.safetensors").write_bytes(b"weights")
    store.publish("target", key, claim.workdir, Manifest("target", key, "re", 1, {}, {}, 0, "orl32", 1))
"""


def test_many_threads_compute_a_stage_once(tmp_path: Path) -> None:
    computed = []

    def work() -> None:
        store = Store(tmp_path)
        with store.claim("target", KEY) as claim:
            if claim.manifest is None:
                computed.append(1)
                time.sleep(0.01)
                (claim.workdir / "a").write_bytes(b"a")
                store.publish("target", KEY, claim.workdir, _manifest())

    with ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(work) for _ in range(12)]:
            done.result()
    assert computed == [1]


_PUBLISH_LOOP = """
import sys
from pathlib import Path
from mibench.keys import digest
from mibench.store.artifacts import Manifest, Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(10_000):
    key = digest(number)
    with store.claim("target", key) as claim:
        if claim.manifest is None:
            for name in "abc":
                (claim.workdir / name).write_bytes(f"{number}{name}".encode() * 2000)
            manifest = Manifest("target", key, "re", 1, {}, {}, number, "orl32", 1)
            store.publish("target", key, claim.workdir, manifest)
"""


def test_kill_while_publishing_leaves_only_whole_artefacts(tmp_path: Path) -> None:
    """kill -9 at random moments, 12 times over one store: nothing half-done is ever visible."""
    rng = random.Random(0)
    for _ in range(12):
        child = subprocess.Popen([sys.executable, "-c", _PUBLISH_LOOP, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(rng.uniform(0.02, 0.3))
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert Store(tmp_path).damaged(verify=True) == []
    seeds = sorted(manifest.seed for manifest in Store(tmp_path).manifests())
    assert len(seeds) > 20
    assert seeds == list(range(len(seeds))), "what was stored before a kill is still there"
    for manifest in Store(tmp_path).manifests():
        for name in "abc":
            file = Store(tmp_path).path("target", manifest.key) / name
            assert file.read_bytes() == f"{manifest.seed}{name}".encode() * 2000


def test_publication_killed_before_its_rename_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(atomic, "move_folder", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        _publish(store)
    assert store.manifest("target", KEY) is None
    with store.claim("target", KEY) as claim:
        assert claim.manifest is not None
    assert store.manifest("target", KEY, verify=True) is not None


@pytest.mark.parametrize("name", [FILE, "model.safetensors", "images/0.png"])
def test_any_flipped_byte_is_found(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    file = _publish(store) / name
    whole = file.read_bytes()
    original = store.manifest("target", KEY)
    for position in range(0, len(whole), 1 if len(whole) < 100 else 7):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        file.write_bytes(broken)
        problems = store.damaged(verify=True)
        if not problems:  # white space of the JSON text may change without changing what it says
            assert store.manifest("target", KEY, verify=True) == original
            assert name == FILE and whole[position : position + 1].isspace()
        else:
            assert file.name in problems[0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": 1}', b"NaN"])
def test_damaged_manifest_is_moved_aside_and_recomputed(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path)
    (_publish(store) / FILE).write_bytes(content)
    with pytest.raises(Damaged, match=r"manifest\.json"):
        store.manifest("target", KEY)
    assert store.manifest("target", KEY) is None
    [aside] = (tmp_path / "damaged").iterdir()
    assert (aside / "model.safetensors").exists()
    _publish(store)
    assert store.manifest("target", KEY) is not None


def test_claim_reports_a_damaged_artefact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (_publish(store) / "model.safetensors").unlink()
    with store.claim("target", KEY) as claim:
        assert claim.manifest is None
        assert claim.damaged is not None and "model.safetensors is missing" in claim.damaged


def test_manifest_of_another_key_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = _publish(store)
    other = digest("other")
    store.path("target", other).parent.mkdir(parents=True)
    path.rename(store.path("target", other))
    with pytest.raises(Damaged, match="belongs to"):
        store.manifest("target", other)


def test_newer_schema_is_a_sentence_not_damage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    file = _publish(store) / FILE
    data = json.loads(file.read_text())
    del data["checksum"]
    data["schema"], data["something_new"] = 3, True
    file.write_text(json.dumps(data | {"checksum": digest(data)}))
    with pytest.raises(UserError, match="schema 3"):
        store.manifest("target", KEY)
    assert file.exists()


def test_manifest_of_the_first_schema_is_read(tmp_path: Path) -> None:
    """It had no field ``usage``; one that has it, or lacks another, is damaged."""
    store = Store(tmp_path)
    file = _publish(store) / FILE
    data = json.loads(file.read_text())
    whole = store.manifest("target", KEY)
    assert whole is not None and data["schema"] == 2
    del data["checksum"]
    old = {name: value for name, value in data.items() if name != "usage"} | {"schema": 1}
    file.write_text(json.dumps(old | {"checksum": digest(old)}))
    found = store.manifest("target", KEY)
    assert found is not None and found.usage == {} and found.outputs == whole.outputs
    for wrong in (data | {"schema": 1}, {name: value for name, value in old.items() if name != "seconds"}):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(wrong | {"checksum": digest(wrong)}))
        with pytest.raises(Damaged, match="fields differ"):
            store.manifest("target", KEY)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("../target", KEY),
        ("target", "../" + KEY[3:]),
        ("target", KEY.upper()),
        ("Target", KEY),
        ("target", KEY[:-1]),
        ("target", KEY + "\n"),
        ("target\n", KEY),
        ("", KEY),
        ("/target", KEY),
        ("target", "/" + KEY[1:]),
        ("target", "."),
    ],
)
def test_names_that_are_not_names_are_refused(tmp_path: Path, kind: str, key: str) -> None:
    store = Store(tmp_path)
    with pytest.raises(ValueError, match=r"kind|key"):
        store.path(kind, key)
    with pytest.raises(ValueError, match=r"kind|key"):
        store.manifest(kind, key)
    with pytest.raises(ValueError, match=r"kind|key"), store.claim(kind, key):
        pass


def test_link_out_of_the_store_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    (tmp_path / "outside").mkdir()
    store.root.mkdir(parents=True)
    (store.root / "target").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="outside the store"):
        store.path("target", KEY)


def test_output_that_links_outside_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim("target", KEY) as claim:
        (claim.workdir / "passwd").symlink_to("/etc/passwd")
        with pytest.raises(ValueError, match="outside its folder"):
            store.publish("target", KEY, claim.workdir, _manifest())


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a//b", "./a", "", "a\\b", "a\x00b"])
def test_manifest_with_an_output_outside_is_damaged(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    file = _publish(store) / FILE
    data = json.loads(file.read_text())
    del data["checksum"]
    data["outputs"] = {name: {"sha256": "0" * 64, "bytes": 1}}
    file.write_text(json.dumps(data | {"checksum": digest(data)}))
    assert "outside its folder" in store.damaged()[0]


def test_result_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim("target", KEY) as claim, pytest.raises(ValueError, match="JSON"):
        store.publish("target", KEY, claim.workdir, _manifest(result={"nat1": float("nan")}))
    assert store.manifest("target", KEY) is None


# --- disk trouble


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A 1 MiB file system; skips where mounting is not permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk_is_a_sentence_and_changes_nothing(small_disk: Path) -> None:
    store = Store(small_disk)
    path = _publish(store)
    save_state(small_disk / "state", 1, {"x": torch.arange(10)})
    with pytest.raises(MissingError, match="disk is full"):
        atomic.write_bytes(small_disk / "file", bytes(2_000_000))
    with pytest.raises(MissingError, match="disk is full"):
        save_state(small_disk / "state", 2, {"x": torch.zeros(500_000)})
    with pytest.raises(MissingError, match="disk is full"), atomic.writing(path), atomic.write_folder(path) as folder:
        (folder / "big").write_bytes(bytes(2_000_000))
    step, tree = load_state(small_disk / "state") or (0, {})
    assert step == 1 and torch.equal(tree["x"], torch.arange(10))
    assert store.manifest("target", KEY, verify=True) is not None
    assert not list(small_disk.rglob("*.tmp"))


def test_disk_that_fills_up_while_publishing(small_disk: Path) -> None:
    store = Store(small_disk)
    key = digest("other")
    with store.claim("target", key) as claim:
        (claim.workdir / "weights").write_bytes(bytes(1000))
        with (
            (small_disk / "ballast").open("wb", buffering=0) as ballast,
            pytest.raises(OSError, match="space"),
        ):
            while True:
                ballast.write(bytes(4096))
        with pytest.raises(MissingError, match="disk is full"):
            store.publish("target", key, claim.workdir, _manifest(key))
        (small_disk / "ballast").unlink()
        store.publish("target", key, claim.workdir, _manifest(key))
    assert store.manifest("target", key, verify=True) is not None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_disk_errors_become_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    file = tmp_path / "a.json"
    atomic.write_json(file, {"old": 1})

    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(MissingError, match=r"a\.json"):
            atomic.write_json(file, {"new": 1})
    assert json.loads(file.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [file]


_READ_ONLY = """
import os, sys
from pathlib import Path
from mibench.errors import MissingError
from mibench.store.artifacts import Store
if os.getuid() == 0:  # root may write anywhere
    os.setgid(65534), os.setuid(65534)
store, key = Store(Path(sys.argv[1])), sys.argv[2]
assert store.manifest("target", key) is not None
try:
    with store.claim("target", key):
        raise SystemExit("claimed in a read-only folder")
except MissingError as error:
    print(error)
"""


def test_read_only_folder_can_be_read_and_says_so_when_written(tmp_path: Path) -> None:
    base = tmp_path / "home"
    base.mkdir()
    _publish(Store(base))
    for folder in [base, *(path for path in base.rglob("*") if path.is_dir())]:
        folder.chmod(0o555)
    for folder in [tmp_path, *list(tmp_path.parents)[:-2]]:
        folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", _READ_ONLY, str(base), KEY], cwd=ROOT, capture_output=True, text=True)
    for folder in [base, *(path for path in base.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "Permission denied" in done.stdout and "MIBENCH_HOME" in done.stdout


@pytest.mark.parametrize("system", ["swaps in one step", "swaps in two"])
def test_folder_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    if system == "swaps in two":
        monkeypatch.setattr(atomic.ctypes, "CDLL", lambda name: object())
    target = tmp_path / "site"
    for text in ("one", "two"):
        with atomic.write_folder(target) as folder:
            (folder / text).write_text(text)
    assert [file.name for file in target.iterdir()] == ["two"]
    with pytest.raises(RuntimeError), atomic.write_folder(target) as folder:
        raise RuntimeError
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(OSError, match="No space"), atomic.write_folder(target) as folder:
        (folder / "three").write_text("three")
    with atomic.write_folder(target, durable=False) as folder:
        (folder / "four").write_text("four")
    assert [file.name for file in target.iterdir()] == ["four"]
    assert [file.name for file in tmp_path.iterdir()] == ["site"]


def _full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_swap_in_two_steps_that_fails_half_way_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda name: object())
    target, rename = tmp_path / "site", Path.rename
    with atomic.write_folder(target) as folder:
        (folder / "one").touch()

    def refuse(self: Path, to: Path) -> Path:
        if to == target and (self / "two").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output"), atomic.write_folder(target) as folder:
        (folder / "two").touch()
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")] == ["site", "site/one"]


def test_a_folder_of_others_who_were_faster_may_stay(tmp_path: Path) -> None:
    target, asked = tmp_path / "data", []
    for text, keep in (("first", False), ("second", True), ("third", False)):
        with atomic.write_folder(target, keep=lambda keep=keep: asked.append(keep) or keep) as folder:  # type: ignore[misc]
            (folder / "text").write_text(text)
        assert (target / "text").read_text() == {"second": "first"}.get(text, text)
        assert [file.name for file in tmp_path.iterdir()] == ["data"]
    assert asked == [True, False], "nothing is asked while there is none"


def test_what_killed_writers_of_a_folder_left_is_known_by_its_name(tmp_path: Path) -> None:
    target = tmp_path / "a.b"
    left = [atomic.temporary(target), atomic.temporary(target)]
    for other in (target, *left, tmp_path / ".a.b.lock", atomic.temporary(tmp_path / "aXb"), tmp_path / ".a.b.tmp"):
        other.mkdir()
    assert atomic.leftovers(target) == sorted(left)


# --- resumable state


def _same(a: Any, b: Any) -> bool:
    """Equal in value and in type, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and torch.equal(a.reshape(-1).contiguous().view(torch.uint8), b.reshape(-1).view(torch.uint8))
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return repr(a) == repr(b)


_SHAPES = st.lists(st.integers(0, 3), max_size=3)
_DTYPES = st.sampled_from(
    [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8, torch.int64, torch.bool]
)


@st.composite
def _tensors(draw: st.DrawFn) -> torch.Tensor:
    shape, dtype, seed = draw(_SHAPES), draw(_DTYPES), draw(st.integers(0, 2**31))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 100
    return values.to(torch.int64).to(dtype) if dtype in (torch.uint8, torch.bool) else values.to(dtype)


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | _tensors()
_TREES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=_TREES, step=st.integers(0, 10**9))
def test_state_comes_back_exactly(tmp_path: Path, tree: Any, step: int) -> None:
    save_state(tmp_path, step, tree)
    loaded = load_state(tmp_path)
    assert loaded is not None and loaded[0] == step
    assert _same(tree, loaded[1])


def _trained(optimizer_state: Any = None, model_state: Any = None, steps: int = 3) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, amsgrad=True)
    if optimizer_state is not None:
        model.load_state_dict(model_state)
        optimizer.load_state_dict(optimizer_state)
    batch = torch.linspace(0, 1, 20).reshape(5, 4)
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_training_resumes_from_stored_state_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = _trained(steps=3)
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    save_state(tmp_path, 3, tree)
    loaded = load_state(tmp_path)
    assert loaded is not None
    stored = loaded[1]
    assert _same(dict(tree["model"]), stored["model"])
    assert _same(tree["optimizer"], stored["optimizer"])
    resumed, _ = _trained(stored["optimizer"], stored["model"], steps=4)
    whole, _ = _trained(steps=7)
    assert _same(dict(resumed.state_dict()), dict(whole.state_dict()))


def test_shared_and_strided_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tree = [base, base, base[:, 1], base.T, torch.tensor(3), torch.tensor(2.5, dtype=torch.bfloat16)]
    save_state(tmp_path, 0, tree)
    loaded = load_state(tmp_path)
    assert loaded is not None and _same(tree, loaded[1])


def test_other_files_beside_the_state_stay(tmp_path: Path) -> None:
    (tmp_path / "seconds").write_text("1.5")
    save_state(tmp_path, 1, torch.ones(2))
    save_state(tmp_path, 2, torch.zeros(2))
    assert len(list(tmp_path.iterdir())) == 3
    assert (tmp_path / "seconds").read_text() == "1.5"


def test_state_refuses_what_it_cannot_store(tmp_path: Path) -> None:
    save_state(tmp_path, 1, "old")
    for tree, where in [
        ({"a": [1, object()]}, r"state\['a'\]\[1\]"),
        ({1.5: 1}, "neither int nor str"),
        ({"s": torch.ones(2, 2).to_sparse()}, "sparse"),
        ([{1, 2}], r"state\[0\]"),
    ]:
        with pytest.raises(TypeError, match=where):
            save_state(tmp_path, 2, tree)
    assert load_state(tmp_path) == (1, "old")


def test_damaged_state_is_none(tmp_path: Path) -> None:
    assert load_state(tmp_path / "nothing") is None
    save_state(tmp_path, 1, {"x": torch.arange(100)})
    for file in list(tmp_path.iterdir()):
        whole = file.read_bytes()
        for broken in (whole[:-1], b"", bytes([whole[0] ^ 1]) + whole[1:], whole[:-9] + b"\xff" + whole[-8:]):
            file.write_bytes(broken)
            assert load_state(tmp_path) is None
        file.write_bytes(whole)
    assert load_state(tmp_path) is not None
    assert len(list(tmp_path.iterdir())) == 2


_STATE_LOOP = """
import sys, torch
from pathlib import Path
from mibench.store.state import load_state, save_state
folder = Path(sys.argv[1])
step = (load_state(folder) or (0, None))[0]
print(step, flush=True)
while True:
    step += 1
    save_state(folder, step, {"x": torch.full((50_000,), step)})
"""


def test_kill_while_saving_state_keeps_one_whole_state(tmp_path: Path) -> None:
    last = 0
    for delay in (0.05, 0.1, 0.2, 0.13):
        child = subprocess.Popen([sys.executable, "-c", _STATE_LOOP, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert int(child.stdout.readline()) == last
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        step, tree = load_state(tmp_path) or (0, None)
        assert step > last
        assert torch.equal(tree["x"], torch.full((50_000,), step))
        last = step
    (tmp_path / ".tmpiNUJ5X").write_bytes(b"")  # what a kill inside safetensors leaves
    save_state(tmp_path, 0, None)
    assert len(list(tmp_path.iterdir())) == 2, "leftovers of killed processes are removed"


def test_the_lock_of_a_process_killed_after_publishing_is_swept(tmp_path: Path) -> None:
    store, other = Store(tmp_path), digest("other")
    _publish(store)
    (store.work / f"{KEY}.lock").touch()
    (store.work / f"{other}.lock").touch()
    store.sweep({KEY})
    assert [path.stem for path in store.work.glob("*")] == [other]
    with store.claim("target", other):
        store.sweep({other})
        assert (store.work / f"{other}.lock").exists(), "somebody holds it"
