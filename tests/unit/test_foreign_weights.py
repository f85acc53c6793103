"""State dicts as training scripts leave them: what is around a network and beside it is told from the network, and a
tensor that belongs to neither is named."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mibench.errors import UserError
from mibench.nets import gan
from mibench.weights.files import read_checkpoint
from mibench.weights.fit import load_published
from mibench.weights.kinds import fit


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 5)


class Lightning(nn.Module):
    """As a LightningModule holds what it trains with."""

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, net)
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(5))
        self.val_acc = nn.Module()
        self.val_acc.register_buffer("tp", torch.zeros(5))


def renamed(state: dict[str, Tensor], name: Callable[[str], str]) -> dict[str, Tensor]:
    return {name(key): value for key, value in state.items()}


def inner_data_parallel(net: Net) -> dict[str, Tensor]:
    net.features = nn.DataParallel(net.features)  # type: ignore[assignment]
    return net.state_dict()


class Flat(Net):
    """Losses and metrics among the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(5))
        self.train_accuracy = nn.BatchNorm1d(2)


WRAPPED: dict[str, Callable[[Net], Any]] = {
    "plain": lambda net: net.state_dict(),
    "DataParallel": lambda net: nn.DataParallel(net).state_dict(),
    "DataParallel of a part": inner_data_parallel,
    "averaged": lambda net: AveragedModel(net).state_dict(),
    "averaged DataParallel": lambda net: AveragedModel(nn.DataParallel(net)).state_dict(),
    "compiled": lambda net: renamed(net.state_dict(), "_orig_mod.{}".format),
    "compiled in parts": lambda net: renamed(net.state_dict(), lambda k: k.replace("features.", "features._orig_mod.")),
    "Opacus": lambda net: renamed(net.state_dict(), "_module.{}".format),
    "Opacus of DataParallel": lambda net: {"model_state_dict": renamed(net.state_dict(), "_module.module.{}".format)},
    "Lightning model": lambda net: {"state_dict": Lightning(net, "model").state_dict(), "epoch": 3, "callbacks": {}},
    "Lightning backbone": lambda net: {"state_dict": Lightning(net, "backbone").state_dict()},
    "Lightning, compiled": lambda net: renamed(
        Lightning(net, "net").state_dict(), lambda k: k.replace("net.", "net._orig_mod.")
    ),
    "Lightning, averaged": lambda net: AveragedModel(Lightning(net, "student")).state_dict(),
    "twice the same": lambda net: (
        renamed(net.state_dict(), "model.{}".format) | renamed(net.state_dict(), "ema.{}".format)
    ),
}


def filled(net: nn.Module, seed: int) -> Any:
    torch.manual_seed(seed)
    for value in net.state_dict().values():
        value.copy_(torch.randn(value.shape) if value.is_floating_point() else torch.tensor(7))
    return net


@pytest.mark.parametrize("name", WRAPPED)
def test_what_is_around_a_network_is_taken_off(name: str) -> None:
    expected = {key: value.clone() for key, value in filled(Net(), 1).state_dict().items()}
    net = filled(Net(), 2)
    load_published(net, WRAPPED[name](filled(Net(), 1)))
    assert all(torch.equal(value, expected[key]) for key, value in net.state_dict().items())


def test_losses_and_metrics_among_the_layers_are_left_aside() -> None:
    flat, net = filled(Flat(), 1), filled(Net(), 2)
    aside = load_published(net, flat.state_dict())
    assert {name.partition(".")[0] for name in aside} == {"criterion", "train_accuracy"}
    assert all(torch.equal(value, flat.state_dict()[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_tensor_that_belongs_to_nothing_is_named(prefix: str) -> None:
    net = Net()
    state = renamed(net.state_dict() | {"neck.weight": torch.ones(3)}, f"{prefix}{{}}".format)
    with pytest.raises(UserError, match=r"unexpected: neck\.weight\."):
        load_published(net, state)
    del state[f"{prefix}fc.bias"], state[f"{prefix}neck.weight"]
    with pytest.raises(UserError, match=r"missing: fc\.bias\."):
        load_published(net, state)


def test_two_networks_with_other_numbers_are_not_chosen_between() -> None:
    one, other = filled(Net(), 1).state_dict(), filled(Net(), 3).state_dict()
    net = filled(Net(), 2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(UserError, match=r"more than once.*ema_model, model"):
        load_published(net, renamed(one, "model.{}".format) | renamed(other, "ema_model.{}".format))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_kind_is_found_beside_a_counter_and_a_loss() -> None:
    net = gan.GmiCritic(32, 1, width=4)
    state = {name.replace("layers", "ls"): value for name, value in net.state_dict().items()}
    beside = {"n_averaged": torch.tensor(3)}, {"criterion.weight": torch.ones(2)}
    for prefix, more in (("module.", beside[0]), ("model.", beside[1]), ("", beside[0])):
        found = fit("gmi_critic", {"state_dict": renamed(state, f"{prefix}{{}}".format) | more})
        assert set(found.tensors) == set(state), prefix


ODD: dict[str, Callable[[], Tensor]] = {
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(4, 3, 3, 3), 0.1, 0, torch.qint8),
    "meta": lambda: torch.empty(4, 3, 3, 3, device="meta"),
    "sparse": lambda: torch.ones(4, 3, 3, 3).to_sparse(),
    "complex64": lambda: torch.ones(4, 3, 3, 3, dtype=torch.complex64),
    "float8_e4m3fn": lambda: torch.ones(4, 3, 3, 3).to(torch.float8_e4m3fn),
    "lazy": lambda: nn.parameter.UninitializedParameter(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_not_plain_numbers_are_named(kind: str) -> None:
    with pytest.raises(UserError, match=rf"The tensor features\.0\.weight is .*{kind}"):
        load_published(Net(), Net().state_dict() | {"features.0.weight": ODD[kind]()})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_other_precision_are_read(dtype: torch.dtype) -> None:
    net, state = Net(), filled(Net(), 1).state_dict()
    load_published(net, {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()})
    assert torch.equal(net.fc.weight, state["fc.weight"].to(dtype).float())


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("folder", ["", "model/", "a folder/model/"])
def test_a_checkpoint_that_a_finder_packed_again_is_read(compression: int, folder: str) -> None:
    state = filled(Net(), 1).state_dict()
    stream, packed = io.BytesIO(), io.BytesIO()
    torch.save(state, stream)
    with zipfile.ZipFile(stream) as before, zipfile.ZipFile(packed, "w", compression) as after:
        after.writestr("__MACOSX/._model", b"\0\5\x16\7")
        after.writestr(f"{folder}.DS_Store", b"Bud1")
        for item in before.infolist():
            after.writestr(folder + item.filename.partition("/")[2], before.read(item))
            after.writestr(f"__MACOSX/{folder}._{item.filename.rpartition('/')[2]}", b"\0\5\x16\7")
    found = read_checkpoint(packed.getvalue())
    assert all(torch.equal(found[key], value) for key, value in state.items())
