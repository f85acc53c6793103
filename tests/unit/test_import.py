"""Published checkpoints: hostile pickles are refused and nothing runs, other files are named, kinds are recognised."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import re
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from mibench.errors import MissingError, UserError
from mibench.nets import gan
from mibench.weights.files import read_checkpoint, read_file
from mibench.weights.fit import load_published, tensors_in
from mibench.weights.imported import all_imported, imported_facts, load_imported, save_imported
from mibench.weights.kinds import KINDS, fit
from mibench.weights.pickles import Module, read_pickle, tensor, tensors_of
from mibench.weights.stylegan2_file import generator_in

TINY = (Path(__file__).parents[1] / "parity" / "data" / "stylegan2_tiny.pkl").read_bytes()


def refusal(data: bytes) -> str:
    with pytest.raises(UserError) as caught:
        read_checkpoint(data)
    return str(caught.value)


def saved(content: Any, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


# --- hostile pickles -----------------------------------------------------------------------------------------------

CANARY = "canary-was-here"


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def load_from_bytes(inner: bytes) -> bytes:
    """A call of the global through which tensors' storages arrive, on a pickle of one's own."""
    return b"ctorch.storage\n_load_from_bytes\nB" + len(inner).to_bytes(4, "little") + inner + b"\x85R"


class Shell:
    def __reduce__(self) -> Any:
        return os.system, (f"touch {CANARY}",)


COMMAND = text(f"touch {CANARY}") + b"\x85R."
HOSTILE: dict[str, tuple[bytes, str]] = {
    "os.system": (b"\x80\x02cos\nsystem\n" + COMMAND, "os.system"),
    "os.system by name": (b"\x80\x04" + text("os") + text("system") + b"\x93" + COMMAND, "os.system"),
    "posix.system": (pickle.dumps(Shell()), "posix.system"),
    "exec": (b"\x80\x02c__builtin__\nexec\n" + text("open('canary-was-here', 'w')") + b"\x85R.", "__builtin__.exec"),
    "eval": (b"\x80\x02cbuiltins\neval\n" + text("1+1") + b"\x85R.", "builtins.eval"),
    "instance": (b"\x80\x02(" + text(f"touch {CANARY}") + b"ios\nsystem\n.", "os.system"),
    "object": (b"\x80\x02(cos\nsystem\n" + text(f"touch {CANARY}") + b"o.", "os.system"),
    "getattr": (b"\x80\x02cbuiltins\ngetattr\nccollections\nOrderedDict\n" + text("x") + b"\x86R.", "builtins.getattr"),
    "operator": (b"\x80\x02coperator\nattrgetter\n" + text("system") + b"\x85R.", "operator.attrgetter"),
    "dotted": (
        b"\x80\x04" + text("collections") + text("OrderedDict.fromkeys") + b"\x93)R.",
        "collections.OrderedDict.fromkeys",
    ),
    "inside a stand-in": (
        b"\x80\x04" + text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93.",
        "torch._utils._rebuild_tensor_v2.__globals__",
    ),
    "our own module": (b"\x80\x02cmibench.weights.pickles\nos\n.", "mibench.weights.pickles.os"),
    "torch.load": (b"\x80\x02ctorch\nload\n" + text("x") + b"\x85R.", "torch.load"),
    "numpy.load": (b"\x80\x02cnumpy\nload\n" + text("x") + b"\x85R.", "numpy.load"),
    "persistent id": (b"\x80\x02" + text("x") + b"Q.", "persistent id"),
    "persistent id as text": (b"\x80\x02Px\n.", "persistent id"),
    "extension": (b"\x80\x02\x82\x01.", "extension registry"),
    "huge memo": (b"\x80\x02Nr\xff\xff\xff\xff.", "memo of 4,294,967,295 entries"),
    "huge memo as text": (b"\x80\x02Np99999999999\n.", "memo of 99,999,999,999 entries"),
    "set on a function": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}" + text("__defaults__") + b"Ns\x86b.",
        "change something",
    ),
    "storage": (b"\x80\x02" + load_from_bytes(pickle.dumps(Shell())) + b".", ""),
    "legacy storage": (b"\x80\x02" + load_from_bytes(saved(Shell(), legacy=True)) + b".", "posix.system"),
    "zip storage": (b"\x80\x02" + load_from_bytes(saved(Shell())) + b".", "posix.system"),
    "numpy object": (b"\x80\x02cnumpy\ndtype\n" + text("O8") + b"\x85R.", "numpy values of type 'O8'"),
    "codec": (b"\x80\x02c_codecs\nencode\n" + text("x") + text("zlib") + b"\x86R.", "encodes text as 'zlib'"),
    "TensorFlow": (b"\x80\x02cdnnlib.tflib.network\nNetwork\n)R.", "TensorFlow network"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickle_is_refused_by_name_and_nothing_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data, said = HOSTILE[name]
    assert said in refusal(data)
    assert list(tmp_path.iterdir()) == []


def test_the_canary_sings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the restricted reader the same bytes do run."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE["os.system"][0])
    assert (tmp_path / CANARY).exists()


@pytest.mark.parametrize("legacy", [True, False])
def test_hostile_torch_file_is_refused_by_name_and_nothing_runs(
    legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal(saved({"state_dict": {"a": torch.ones(2)}, "extra": Shell()}, legacy))
    assert "asks for posix.system" in said and "nothing of it was run" in said
    assert list(tmp_path.iterdir()) == []
    assert "torch.nn.modules.linear.Linear" in refusal(saved(nn.Linear(2, 2), legacy))


def test_the_source_code_in_the_published_format_is_not_run() -> None:
    assert b"raise RuntimeError" in TINY
    key, generator = generator_in(read_pickle(TINY))
    assert (key, generator.name) == ("G_ema", "Generator")
    module_src = "import os; os.system('false')"
    layer = {"type": "class", "version": 6, "module_src": module_src, "class_name": "X", "state": {"a": 1}}
    found = read_pickle(
        pickle.dumps(layer, 2)[:-1].replace(
            b"\x80\x02", b"\x80\x02ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
        )
        + b"\x85R."
    )
    assert isinstance(found, Module) and (found.name, found.attributes) == ("X", {"a": 1})


@pytest.mark.parametrize(
    ("size", "stride", "said"),
    [
        ((10**6, 10**6), (0, 0), "larger than its values"),
        ((2, -3), (1, 1), "no plain shape"),
        ((2, 2), (1, 9), "damaged"),
    ],
)
def test_a_small_file_does_not_become_a_large_tensor(size: Any, stride: Any, said: str) -> None:
    rebuild, (storage, *_) = torch.ones(4).__reduce_ex__(2)[:2]

    class Wrong:
        def __reduce__(self) -> Any:
            return rebuild, (storage, 0, size, stride, False, OrderedDict())

    with pytest.raises(UserError, match=said):
        read_pickle(pickle.dumps(Wrong()))


@pytest.mark.parametrize("data", [TINY, saved({"a": torch.ones(5)}), saved({"a": torch.ones(5)}, True)])
def test_damage_anywhere_is_a_sentence(data: bytes) -> None:
    """No other exception, whatever byte is wrong or where the file ends."""
    rng, outcomes = random.Random(4), []
    end = min(len(data), 6000)  # where the opcodes are dense
    for turn in range(400):
        spoilt = bytearray(data)
        if turn % 4 == 0:
            spoilt = spoilt[: rng.randrange(1, end)]
        else:
            for _ in range(rng.choice((1, 1, 3))):
                spoilt[rng.randrange(end)] = rng.randrange(256)
        try:
            fit("stylegan2", read_checkpoint(bytes(spoilt)))
            outcomes.append("read")
        except UserError as error:
            assert str(error)
            outcomes.append("refused")
    assert outcomes.count("refused") > 200


# --- other files ---------------------------------------------------------------------------------------------------


def tar_of(*names: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


def zip_of(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return stream.getvalue()


def bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    return stream.getvalue()


STATE = {"state_dict": {"a": torch.arange(300.0)}}
NAMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "zeros": (bytes(5000), "only zeros"),
    "web page": (b"\n <!DOCTYPE html><html><head><title>Quota exceeded</title>", "web page, 'Quota exceeded'"),
    "web page without doctype": (b"<html><body>Sign in</body></html>", "web page"),
    "error of a cloud store": (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "web page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer"),
    "JSON": (b'{"error": "not found"}', "is text"),
    "prose": (b"Please ask the authors for the file.", "no checkpoint"),
    "gzip": (b"\x1f\x8b\x08rest", "gzip archive"),
    "RAR": (b"Rar!\x1a\x07\x00", "RAR archive"),
    "tar": (tar_of("celeba_G.pth", "celeba_D.pth"), "tar archive of celeba_G.pth, celeba_D.pth"),
    "torch 0.1": (tar_of("sys_info", "pickle", "storages", "tensors"), "torch 0.1"),
    "zip": (zip_of("a.pth", "b.pth", "c", "d"), "zip archive of a.pth, b.pth, c and 1 more"),
    "zip bomb": (bomb(), "compressed"),
    "TorchScript": (zip_of("m/data.pkl", "m/constants.pkl"), "TorchScript"),
    "half a zip": (saved(STATE)[:-400], "cut off"),
    "half a legacy file": (saved(STATE, True)[:-400], "cut off"),
    "legacy file cut in its list": (saved(STATE, True)[:310], "cut off"),
    "half a pickle": (TINY[: len(TINY) // 2], "cut off"),
    "half a safetensors file": (save_safetensors(STATE["state_dict"])[:-9], "cut off"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_no_checkpoint_is_named(name: str) -> None:
    data, said = NAMED[name]
    assert said in refusal(data)


@pytest.mark.parametrize("legacy", [True, False])
def test_what_training_scripts_leave_beside_the_tensors_is_read(legacy: bool) -> None:
    content = {"epoch": 3, "best": np.float64(0.25), "args": argparse.Namespace(lr=0.1), **STATE}
    found = read_checkpoint(saved(content, legacy))
    assert (found["epoch"], found["best"], found["args"]["lr"]) == (3, 0.25, 0.1)
    assert torch.equal(found["state_dict"]["a"], STATE["state_dict"]["a"])


def test_raw_pickles_and_safetensors_of_a_state_dict_are_read() -> None:
    state = {"module.l1.weight": torch.randn(2, 3), "module.l1.bias": torch.randn(2).half()}
    for data in (pickle.dumps({"model": state}, 2), pickle.dumps({"model": state}, 4)):
        found = tensors_in(tensors_of(read_checkpoint(data)))
        assert set(found) == {"l1.weight", "l1.bias"}
        assert all(torch.equal(found[name], state[f"module.{name}"]) for name in found)
    assert torch.equal(read_checkpoint(save_safetensors({"a": torch.ones(3)}))["a"], torch.ones(3))


@pytest.mark.parametrize("value", [True, 7, -3, 0.5])
@pytest.mark.parametrize("protocol", [2, 4])
def test_numbers_of_numpy_are_numbers(value: Any, protocol: int) -> None:
    for dtype in (np.float64, np.float32, np.int64, np.dtype(">i4").type, np.bool_):
        stored = dtype(value)
        assert read_pickle(pickle.dumps({"x": stored}, protocol)) == {"x": stored.item()}


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="There is no checkpoint file"):
        read_file(tmp_path / "celeba_G.tar")
    with pytest.raises(MissingError, match="is a folder"):
        read_file(tmp_path)


# --- state dicts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s},
        lambda s: {"epoch": 3, "model": s, "optimizer": {"state": {}}},
        lambda s: {"net": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"generator": s, "discriminator": {"x": torch.ones(1)}},
        lambda s: {"state_dict": {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}}},
    ],
)
def test_wrappers_and_prefixes(wrap: Callable[[Any], Any]) -> None:
    net = gan.GmiCritic(32, 1, width=4)
    state = {name.replace("layers", "ls"): value + 1 for name, value in net.state_dict().items()}
    load_published(net, wrap(state))
    assert all(torch.equal(value, state[name.replace("layers", "ls")]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "found list"),
        (torch.ones(2), "found one tensor"),
        ({"epoch": 3, "a": torch.ones(2)}, "no tensor at epoch"),
    ],
)
def test_content_without_a_state_dict_is_said(content: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        tensors_in(content)


# --- kinds ---------------------------------------------------------------------------------------------------------


def published(net: nn.Module) -> dict[str, Tensor]:
    """The state dict of one of our networks under the published names."""
    back = {ours: theirs for theirs, ours in getattr(net, "published_names", {}).items()}

    def name_of(key: str) -> str:
        parts = key.split(".")
        for end in range(len(parts), 0, -1):
            if (head := ".".join(parts[:end])) in back:
                return ".".join([back[head], *parts[end:]])
        return key

    return {name_of(key): value for key, value in net.state_dict().items()}


def test_settings_are_read_from_shapes() -> None:
    for resolution, channels, width, latent in ((64, 3, 6, 11), (32, 1, 4, 100)):
        sizes = {"resolution": resolution, "channels": channels, "width": width}
        made = fit("gmi", {"state_dict": published(gan.GmiGenerator(resolution, channels, width, latent))})
        assert made.settings == sizes | {"latent_dim": latent}
        assert fit("gmi_critic", published(gan.GmiCritic(resolution, channels, width))).settings == sizes
        judge = gan.KedmiDiscriminator(9, resolution, channels, width, (5, 7))
        expected = {"num_classes": 9, **sizes, "mbd": (5, 7)}
        assert fit("kedmi_discriminator", published(judge)).settings == expected


@pytest.mark.parametrize("kind", ["vgg16", "facenet64", "facenet112", "densenet121", "efficientnet_b0"])
def test_classifiers_with_any_number_of_classes(kind: str) -> None:
    with torch.device("meta"):
        net = KINDS[kind].build({"num_classes": 7, "channels": 3, "resolution": 112 if kind == "facenet112" else 64})
    zeros = {name: torch.zeros(value.shape) for name, value in published(net).items()}
    assert fit(kind, zeros).settings["num_classes"] == 7
    other = next(name for name in ("vgg16", "facenet64") if name != kind)
    with pytest.raises(UserError, match=f"It fits --as {kind}"):
        fit(other, zeros)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(UserError, match="no tensors"):
        fit("gmi", {"state_dict": {}})
    state = published(gan.GmiGenerator(64, 3, 4, 10))
    with pytest.raises(UserError, match=r"no tensor 'mbd1.T'|no tensor 'layer1.0.weight'.*It fits --as gmi or kedmi"):
        fit("kedmi_discriminator", state)
    with pytest.raises(UserError, match=r"missing: l1\.1\.bias"):
        fit("gmi", {name: value for name, value in state.items() if name != "l1.1.bias"})
    with pytest.raises(UserError, match=r"unexpected: extra"):
        fit("gmi", state | {"extra": torch.ones(1)})
    with pytest.raises(UserError, match=r"l1\.1\.bias .*not finite"):
        fit("gmi", state | {"l1.1.bias": state["l1.1.bias"] * float("nan")})
    with pytest.raises(UserError, match="32 or 64 pixels"):
        fit(
            "gmi",
            {re.sub(r"l2_5.4", "l2_5.5", name): value for name, value in state.items()}
            | {"l2_5.7.weight": torch.ones(4, 3, 5, 5)},
        )
    with pytest.raises(UserError, match=r"Unknown kind of checkpoint 'gmj'.*'gmi'"):
        fit("gmj", state)


# --- the published StyleGAN2 format --------------------------------------------------------------------------------


def filters(data: bytes) -> bytes:
    taps = (np.array([1, 3, 3, 1], dtype="<f4") / 64).tobytes()
    other = (np.array([3, 3, 3, 1], dtype="<f4") / 64).tobytes()
    assert taps in data
    return data.replace(taps, other)


CHANGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another architecture": (lambda d: d.replace(b"\x8c\x04skip", b"\x8c\x04orig"), "architecture 'orig'"),
    "another activation": (lambda d: d.replace(b"\x8c\x05lrelu", b"\x8c\x05swish"), "activation 'swish'"),
    "conditional": (lambda d: re.sub(rb"(\x8c\x05c_dim\x94)K\x00", b"\\1K\x05", d), "c_dim 5; only 0"),
    "no noise": (lambda d: re.sub(rb"(use_noise\x94)\x88", b"\\1\x89", d), "use_noise False"),
    "another padding": (lambda d: re.sub(rb"(\x8c\x07padding\x94)K\x01", b"\\1K\x02", d), "padding 2"),
    "another class": (lambda d: d.replace(b"SynthesisLayer", b"SynthesisLayed"), "is a SynthesisLayed"),
    "an unknown setting": (lambda d: d.replace(b"\x8c\x09use_noise", b"\x8c\x09use_magic"), "use_noise None"),
    "a further setting": (lambda d: d.replace(b"\x8c\x08use_fp16", b"\x8c\x08sharpens"), "setting 'sharpens'"),
    "a further argument": (lambda d: d.replace(b"\x8c\x0cnum_fp16_res", b"\x8c\x0cnum_mirrored"), "num_mirrored"),
    "another filter": (filters, r"is not the filter \[1, 3, 3, 1\]"),
    "another gain": (lambda d: d.replace(np.float64(2**0.5).tobytes(), np.float64(2).tobytes()), "act_gain 2.0"),
    "no generator": (
        lambda d: d.replace(b"\x8c\x05G_ema", b"\x8c\x05G_emb"),
        "expected a generator under the key G_ema",
    ),
    "a part renamed": (lambda d: d.replace(b"\x8c\x05torgb", b"\x8c\x05tohsv"), "Expected the tensors of a StyleGAN2"),
    "two clamps": (
        lambda d: d.replace(b"G@p\x00\x00\x00\x00\x00\x00", b"G@`\x00\x00\x00\x00\x00\x00", 1),
        "conv_clamp 256.0; only 128.0",
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_generator_that_computes_something_else_is_refused(name: str) -> None:
    change, said = CHANGED[name]
    data = change(TINY)
    assert data != TINY and len(data) == len(TINY)
    with pytest.raises(UserError, match=f"(?i){said}"):
        fit("stylegan2", read_checkpoint(data))


def as_published(value: Any, easy: type[dict[Any, Any]], rebuild: Callable[[Any], Any]) -> Any:
    """What ``read_pickle`` gave as the objects that the published code would pickle."""
    if isinstance(value, Module):
        state = as_published(value.attributes, easy, rebuild)
        meta = easy(type="class", version=6, module_src="raise SystemExit", class_name=value.name, state=state)

        class Layer:
            def __reduce__(self) -> Any:
                return rebuild, (meta,), None

        return Layer()
    if isinstance(value, dict):
        kind = easy if "z_dim" in value or "channel_base" in value else OrderedDict
        return kind((key, as_published(inner, easy, rebuild)) for key, inner in value.items())
    found = tensor(value)
    return value if found is None else nn.Parameter(found)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_and_the_published_helpers_are_read(protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official files are of protocol 3 (whose sets are a global) and hold settings as dnnlib's EasyDict."""

    class EasyDict(dict[Any, Any]):
        pass

    def rebuild(meta: Any) -> Any:
        raise AssertionError("the published code ran")

    for function, module, name in (
        (rebuild, "torch_utils.persistence", "_reconstruct_persistent_obj"),
        (EasyDict, "dnnlib.util", "EasyDict"),
    ):
        function.__module__, function.__qualname__ = module, name
        parent, fake = types.ModuleType(module.partition(".")[0]), types.ModuleType(module)
        setattr(fake, name, function)
        monkeypatch.setitem(sys.modules, parent.__name__, parent)
        monkeypatch.setitem(sys.modules, module, fake)
    content = as_published(read_pickle(TINY), EasyDict, rebuild)
    content |= {"sets": {1, 2}, "empty": set(), "number": np.float32(0.5), "nested": EasyDict(a=EasyDict())}
    data = pickle.dumps(content, protocol)
    assert b"EasyDict" in data
    first, again = fit("stylegan2", read_checkpoint(TINY)), fit("stylegan2", read_checkpoint(data))
    assert again.settings == first.settings
    assert all(torch.equal(again.tensors[name], value) for name, value in first.tensors.items())


def test_other_designs_are_refused_by_name() -> None:
    content = read_pickle(TINY)
    content["G_ema"].attributes["c_dim"] = 10
    with pytest.raises(UserError, match=r"conditional generator \(c_dim 10\)"):
        fit("stylegan2", content)
    content["G_ema"].attributes["c_dim"] = 0
    content["G_ema"].attributes["_init_kwargs"]["synthesis_kwargs"]["architecture"] = "resnet"
    with pytest.raises(UserError, match="architecture is 'resnet'"):
        fit("stylegan2", content)


def test_the_raw_generator_is_an_alternative_and_named() -> None:
    content = read_pickle(TINY)
    found = fit("stylegan2", {"G": content["G_ema"], "G_ema": None})
    assert found.notes == ["It has no G_ema; this is G, the generator without weight averaging."]


def test_a_state_dict_of_stylegan2_is_read_with_a_note() -> None:
    first = fit("stylegan2", read_checkpoint(TINY))
    filters = {
        f"synthesis.b{r}.resample_filter": torch.outer(*[torch.tensor([1.0, 3, 3, 1])] * 2) / 64 for r in (8, 16)
    }
    again = fit("stylegan2", {"module." + name: value for name, value in (first.tensors | filters).items()})
    assert again.settings == first.settings and "conv_clamp" in again.notes[0] and not first.notes
    assert all(torch.equal(again.tensors[name], value) for name, value in first.tensors.items())
    with pytest.raises(UserError, match="is not the filter"):
        fit("stylegan2", first.tensors | {"synthesis.b8.resample_filter": torch.ones(4, 4) / 16})
    bad = {name.replace("b64", "b99999999999"): value for name, value in first.tensors.items()}
    with pytest.raises(UserError):
        fit("stylegan2", bad)


# --- the store -----------------------------------------------------------------------------------------------------


def test_weights_are_found_by_the_hash_of_their_file(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(3, 2).T, "b": torch.arange(4)}  # one of them not contiguous
    tensors["shared"] = tensors["b"]
    name = save_imported(tmp_path, "0123456789abcdef" + "0" * 48, tensors, {"kind": "gmi", "file": "x.tar"})
    assert name == "0123456789abcdef"
    found, facts = load_imported(tmp_path, name)
    assert found.keys() == tensors.keys() and all(torch.equal(found[key], tensors[key]) for key in found)
    assert (facts["kind"], facts["file"], facts["id"]) == ("gmi", "x.tar", name)
    assert all_imported(tmp_path) == [facts] == [imported_facts(tmp_path, name)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.json", f"{name}.safetensors"]


def test_damaged_and_missing_weights_are_said(tmp_path: Path) -> None:
    name = save_imported(tmp_path, "f" * 64, {"a": torch.ones(9)}, {})
    (tmp_path / "outside.json").write_text(json.dumps({"stored_sha256": "x"}))
    for wrong in ("../outside", "outside", "0" * 16, "", "F" * 16, f"{name}/../{name}"):
        with pytest.raises(MissingError, match="import-checkpoint FILE --as KIND"):
            load_imported(tmp_path, wrong)
    path = tmp_path / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(MissingError, match="damaged"):
        load_imported(tmp_path, name)
    assert all_imported(tmp_path) == [{"id": name, "damaged": True}]
    (tmp_path / f"{name}.json").write_text("[]")
    with pytest.raises(MissingError, match="damaged"):
        imported_facts(tmp_path, name)
