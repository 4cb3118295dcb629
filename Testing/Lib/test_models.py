from __future__ import annotations

import dataclasses
import json
import os
import socket
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from VolumeSegmanticsLib.card import CARD_KEY, ModelCard, read_card
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.errors import DependencyError, ModelError, ResourceError, SettingsError
from VolumeSegmanticsLib.intensity import Intensity
from VolumeSegmanticsLib.models import Model, file, neighbours, standardised, unet2d
from VolumeSegmanticsLib.models.folding import folded
from VolumeSegmanticsLib.settings import TrainSettings


def small(architecture="Unet", encoder="resnet18", weights="none", *, channels=1, size=0, depth=0):
    settings = TrainSettings(architecture=architecture, encoder=encoder, encoder_depth=depth)
    return unet2d.build(settings, weights, channels=channels, classes=3, size=size)


def with_settings(card: ModelCard, **changes) -> ModelCard:
    return dataclasses.replace(card, settings={**card.settings, **changes})


# The file -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def a_model_file(the_tiny_model, tmp_path):
    return the_tiny_model.save(tmp_path / "Mein Mödell.safetensors")


def test_a_model_survives_the_way_to_disk_and_back(a_tiny_model, a_model_file):
    loaded = Model.load(a_model_file)
    assert loaded.card == a_tiny_model.card
    theirs = loaded.network.state_dict()
    for name, tensor in a_tiny_model.network.state_dict().items():
        assert tensor.equal(theirs[name]), name


def test_the_card_is_read_without_torch(a_model_file):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['safetensors'] = sys.modules['numpy'] = None\n"
        "from VolumeSegmanticsLib.card import read_card\n"
        f"print([c.name for c in read_card({str(a_model_file)!r}).classes])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        encoding="utf-8",
        check=True,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    assert run.stdout.strip() == "['Background', 'Pöre', 'Fibre']"


def test_a_file_is_replaced_whole_or_not_at_all(a_tiny_model, a_model_file, monkeypatch):
    before = a_model_file.read_bytes()

    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", half)
    with pytest.raises(ResourceError, match="No space left") as told:
        a_tiny_model.save(a_model_file)
    assert told.value.hint
    assert a_model_file.read_bytes() == before
    assert list(a_model_file.parent.iterdir()) == [a_model_file]


def test_missing_folders_are_made(a_tiny_model, tmp_path):
    assert a_tiny_model.save(tmp_path / "new" / "er" / "m.safetensors").is_file()


def header_of(content: bytes) -> tuple[dict, bytes]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_card(content: bytes, change) -> bytes:
    """Return a model file with another card."""
    header, tensors = header_of(content)
    card = json.loads(header["__metadata__"][CARD_KEY])
    header["__metadata__"][CARD_KEY] = json.dumps(change(card))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


DAMAGES = {
    "truncated": (lambda content: content[: len(content) // 2], "truncated"),
    "truncated in its header": (lambda content: content[:100], "damaged"),
    "empty": (lambda content: b"", "not a model file"),
    "foreign": (lambda content: b"PK\x03\x04" + bytes(5000), "not a model file"),
    "a newer version's": (lambda content: with_card(content, lambda card: card | {"version": 99}), "newer"),
    "of an unknown kind": (lambda content: with_card(content, lambda card: card | {"model": "unet9d"}), "unet9d"),
    "another network's": (
        lambda content: with_card(
            content, lambda card: card | {"settings": card["settings"] | {"encoder": "resnet34"}}
        ),
        "do not fit",
    ),
    "one class short": (
        lambda content: with_card(content, lambda card: card | {"classes": card["classes"][:2]}),
        "fit",
    ),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_a_sentence(damage, words, a_model_file):
    a_model_file.write_bytes(damage(a_model_file.read_bytes()))
    with pytest.raises(ModelError, match=words) as told:
        Model.load(a_model_file)
    assert told.value.hint


def test_a_model_with_settings_that_this_version_does_not_know_is_a_sentence(a_model_file):
    content = with_card(a_model_file.read_bytes(), lambda card: card | {"settings": {"warp_drive": 9}})
    a_model_file.write_bytes(content)
    with pytest.raises((ModelError, SettingsError), match="warp_drive"):
        Model.load(a_model_file)


def test_another_programs_safetensors_file_is_a_sentence(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="no model of VolumeSegmantics"):
        Model.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["nowhere.safetensors", "."])
def test_no_file_is_a_sentence(name, tmp_path):
    with pytest.raises(ModelError, match="There is no model file"):
        Model.load(tmp_path / name)


def test_a_model_trained_on_crops_that_its_network_needs_is_loaded(a_card, tmp_path):
    """PAN does not take pictures of 64 pixels; it was trained on larger ones."""
    card = with_settings(a_card, architecture="PAN", encoder_depth=0, crop_size=128)
    path = Model.new(card, size=128).save(tmp_path / "pan.safetensors")
    assert Model.load(path).card.settings["architecture"] == "PAN"


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2", "efficientnet-b0"])
@pytest.mark.parametrize("architecture", ["Unet", "MAnet", "PAN"])
@pytest.mark.parametrize("full_resolution", [True, False])
def test_loading_makes_the_same_network_without_running_it(
    architecture, encoder, full_resolution, a_card, tmp_path, monkeypatch
):
    card = with_settings(
        a_card, architecture=architecture, encoder=encoder, encoder_depth=0, full_resolution=full_resolution
    )
    saved = Model.new(card, size=128)
    path = saved.save(tmp_path / "model.safetensors")

    def refuse(*_):
        raise AssertionError("a network was run")

    monkeypatch.setattr(type(saved.network), "forward", refuse)
    loaded = Model.load(path).network.state_dict()
    assert list(loaded) == list(saved.network.state_dict())
    assert all(loaded[name].equal(tensor) for name, tensor in saved.network.state_dict().items())


def test_a_stage_that_is_missing_before_others_is_a_sentence(a_tiny_model, tmp_path):
    tensors = {name: t for name, t in a_tiny_model.network.state_dict().items() if ".encoder.layer1." not in name}
    file.save(tmp_path / "model.safetensors", tensors, a_tiny_model.card)
    with pytest.raises(ModelError, match="do not fit its card"):
        Model.load(tmp_path / "model.safetensors")


# Networks -----------------------------------------------------------------------------------------------------------


def test_new_models_of_one_seed_are_the_same(a_card):
    torch.rand(5)
    before = torch.random.get_rng_state()
    first, again = (Model.new(a_card, size=32).network.last.weight for _ in range(2))
    other = Model.new(with_settings(a_card, seed=1), size=32).network.last.weight
    assert first.equal(again)
    assert not first.equal(other)
    assert torch.random.get_rng_state().equal(before)


def test_neighbouring_slices_are_channels(a_card):
    card = dataclasses.replace(with_settings(a_card, model="unet25d", neighbours=2), model="unet25d", channels=3)
    assert neighbours(card) == 2
    assert Model.new(card, size=32).network.encoder.conv1.in_channels == 15
    assert neighbours(a_card) == 0


def test_logits_have_one_channel_a_class(a_tiny_model):
    with torch.inference_mode():
        logits = a_tiny_model.network.eval() and a_tiny_model.logits(torch.rand(2, 1, 32, 64))
    assert logits.shape == (2, 3, 32, 64)
    assert a_tiny_model.multiple == 16


def test_images_are_shifted_and_scaled_channel_by_channel():
    """Two slices of two channels: mean 0.5 and 0.2, deviation 0.5 and 0.1."""
    images = torch.tensor([0.5, 0.2, 1.0, 0.4]).view(1, 4, 1, 1)
    two = Intensity((0.0, 0.0), (1.0, 1.0), (0.5, 0.2), (0.5, 0.1))
    torch.testing.assert_close(standardised(images, two).flatten(), torch.tensor([0.0, 0.0, 1.0, 2.0]))


REFUSED = {
    "unknown": ("Unet", "resnet19", "no encoder.*resnet19"),
    "unknown to timm": ("Unet", "tu-nothing", "no encoder"),
    "a pair that smp refuses": ("UnetPlusPlus", "mit_b0", "does not take"),
    "a pair of which one needs the other": ("DPT", "resnet18", "does not take"),
    "too small crops": ("PAN", "resnet18", "takes no crops below 128 px, and these have 32.* crop_size=128"),
    "pictures of one size only": ("Unet", "tu-swin_tiny_patch4_window7_224", "fails on"),
}


@pytest.mark.parametrize(("architecture", "encoder", "words"), REFUSED.values(), ids=REFUSED)
def test_encoders_that_do_not_go_are_refused(architecture, encoder, words):
    with pytest.raises(SettingsError, match=words) as told:
        small(architecture, encoder, size=32)
    assert told.value.hint


def test_a_misspelt_encoder_is_met_with_a_guess():
    with pytest.raises(SettingsError, match=r"Did you mean.*resnet34"):
        small(encoder="resnet_34")


# Folding ------------------------------------------------------------------------------------------------------------

PAIRS = (
    ("Unet", "resnet18"), ("Unet", "mobilenet_v2"), ("Linknet", "resnet18"), ("PSPNet", "resnet18"),
    ("Segformer", "mit_b0"), ("DPT", "tu-test_vit"),
)  # fmt: skip


@pytest.mark.parametrize(("architecture", "encoder"), PAIRS)
def test_folding_does_not_change_the_answer(architecture, encoder):
    network = small(architecture, encoder).eval()
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():  # as if it had been trained
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(1, 1, 64, 96, generator=generator)
    faster = folded(network, torch.randn(1, 1, 64, 64, generator=generator))
    with torch.inference_mode():
        torch.testing.assert_close(faster(images), network(images), atol=2e-3, rtol=2e-3)
    assert faster is not network
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())


def norms_in(network) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_every_batch_norm_of_a_plain_network_is_folded():
    network = folded(small(), torch.randn(1, 1, 64, 64))
    assert norms_in(network) == norms_in(network.encoder.layer4)  # which is not used


class UsedTwice(nn.Module):
    """Takes the output of its convolution once through the norm, once past it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.norm.running_mean.fill_(3)

    def forward(self, images):
        out = self.convolution(images)
        return self.norm(out) + out


def test_what_cannot_be_folded_stays_and_is_a_copy():
    network = UsedTwice().eval()
    same = folded(network, torch.randn(1, 1, 8, 8))
    assert norms_in(same) == 1
    same.half()
    assert network.convolution.weight.dtype == torch.float32


# Weights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18", "mit_b0"])
def test_imagenet_weights_out_of_reach_are_a_sentence(encoder, monkeypatch, tmp_path):
    def no_network(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DependencyError, match="not on this machine") as told:
        small(encoder=encoder, weights="imagenet")
    assert "--weights none" in told.value.hint


def test_offline_mode_is_a_sentence_and_stays_as_it_was(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DependencyError):
        small(weights="imagenet")
    import huggingface_hub

    assert huggingface_hub.constants.HF_HUB_OFFLINE is True


@pytest.mark.parametrize("weights", ["imagenet22k", "nowhere.pth", "/no/such/file.safetensors", "."])
def test_weights_that_nobody_has_are_refused_with_those_that_there_are(weights):
    with pytest.raises(SettingsError, match="has no weights") as told:
        small(weights=weights)
    assert "none, imagenet" in told.value.hint


def encoder_tensors(channels=3, encoder="resnet18"):
    """Weights in the way of an encoder file; the first layer holds its own channel number."""
    tensors = {n: t.clone() for n, t in small(encoder=encoder, channels=channels).encoder.state_dict().items()}
    generator = torch.Generator().manual_seed(9)
    return {n: torch.randn(t.shape, generator=generator) if t.is_floating_point() else t for n, t in tensors.items()}


LAYOUTS = {
    "as they are": lambda tensors: tensors,
    "with a head": lambda tensors: {**tensors, "fc.weight": torch.zeros(1000, 512)},
    "of a whole model": lambda tensors: {f"encoder.{n}": t for n, t in tensors.items()},
    "in parallel": lambda tensors: {f"module.encoder.{n}": t for n, t in tensors.items()},
    "in a dictionary": lambda tensors: {"state_dict": tensors, "epoch": 7},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_local_weights_are_found_however_they_are_kept(layout, tmp_path):
    tensors = encoder_tensors()
    torch.save(layout(tensors), tmp_path / "my weights.pth")
    network = small(weights=str(tmp_path / "my weights.pth"), channels=3)
    for name, tensor in network.encoder.state_dict().items():
        assert tensor.equal(tensors[name]), name


def test_local_weights_may_be_safetensors(tmp_path):
    tensors = encoder_tensors()
    save_file(tensors, tmp_path / "w.safetensors")
    network = small(weights=str(tmp_path / "w.safetensors"), channels=3)
    assert network.encoder.layer1[0].conv1.weight.equal(tensors["layer1.0.conv1.weight"])


def test_local_weights_may_be_a_model_of_our_own(a_tiny_model, a_model_file):
    network = small(weights=str(a_model_file), depth=3)
    assert network.encoder.conv1.weight.equal(a_tiny_model.network.encoder.conv1.weight)


def test_local_weights_of_timm_go_with_its_encoders(tmp_path):
    tensors = encoder_tensors(encoder="tu-test_convnext")
    as_timm = {n.removeprefix("model.").replace("stages_", "stages."): t for n, t in tensors.items()}
    assert any(n.startswith("stages.0.") for n in as_timm)
    save_file(as_timm, tmp_path / "w.safetensors")
    network = small(encoder="tu-test_convnext", weights=str(tmp_path / "w.safetensors"), channels=3)
    for name, tensor in network.encoder.state_dict().items():
        assert tensor.equal(tensors[name]), name


@pytest.mark.parametrize("channels", [1, 2, 5, 9])
def test_the_first_layer_is_fitted_so_that_equal_channels_give_the_same_answer(channels, tmp_path):
    """Weights of three channels, on an image whose channels are all alike; five do not divide into three."""
    tensors = encoder_tensors()
    save_file(tensors, tmp_path / "w.safetensors")
    first = small(weights=str(tmp_path / "w.safetensors"), channels=channels).encoder.conv1.weight
    assert first.shape[1] == channels
    ratio = first.sum(dim=1) / tensors["conv1.weight"].sum(dim=1)
    if channels in (9, 3):
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-2, rtol=1e-2)
    np_order = [n % 3 for n in range(channels)]
    torch.testing.assert_close(first, tensors["conv1.weight"][:, np_order] * 3 / channels)


def bad_weights(path, kind):
    if kind == "another encoder's":
        torch.save(encoder_tensors(encoder="mobilenet_v2"), path)
    elif kind == "no weights":
        path.write_text("these are no weights")
    elif kind == "a list":
        torch.save([1, 2, 3], path)
    elif kind == "truncated":
        torch.save(encoder_tensors(), path)
        path.write_bytes(path.read_bytes()[:10_000])
    else:
        torch.save({"conv1.weight": Malice()}, path)


class Malice:
    """What a pickle could do when it is read."""

    def __reduce__(self):
        return os.mkdir, ("was-here",)


@pytest.mark.parametrize("kind", ["another encoder's", "no weights", "a list", "truncated", "malicious"])
def test_files_that_hold_no_such_weights_are_a_sentence(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad_weights(tmp_path / "w.pth", kind)
    with pytest.raises(ModelError, match=r"w\.pth") as told:
        small(weights=str(tmp_path / "w.pth"))
    assert told.value.hint
    assert "weights_only" not in str(told.value)
    assert "trust" not in str(told.value)
    assert not (tmp_path / "was-here").exists()


# Going on from a model ----------------------------------------------------------------------------------------------


def answers(model: Model) -> torch.Tensor:
    with torch.inference_mode():
        return model.network.eval()(torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)))


ONWARDS = pytest.mark.parametrize(
    "changes",
    [
        {"full_resolution": True},
        {"full_resolution": False},
        {"full_resolution": False, "architecture": "DPT", "encoder": "tu-test_vit", "encoder_depth": 0},
    ],
    ids=["Unet with details", "Unet", "DPT"],
)


@ONWARDS
def test_classes_in_another_order_take_their_own_weights(changes, a_card):
    """Background 0, Pöre 2, Fibre 5 become Fibre 1, Pöre 2, Background 7."""
    card = with_settings(a_card, **changes)
    parent = Model.new(card, size=64)
    classes = (LabelClass(1, "Fibre"), LabelClass(2, "Pöre"), LabelClass(7, "Background"))
    child = Model.new(dataclasses.replace(with_settings(card, seed=3), classes=classes), size=64)
    child.take_over(parent)
    torch.testing.assert_close(answers(child), answers(parent)[:, [2, 1, 0]])


@ONWARDS
def test_an_added_class_starts_below_the_others_and_changes_nothing_else(changes, a_card):
    card = with_settings(a_card, **changes)
    parent = Model.new(card, size=64)
    classes = (a_card.classes[0], LabelClass(1, "Crack"), *a_card.classes[1:])
    child = Model.new(dataclasses.replace(card, classes=classes), size=64)
    child.take_over(parent)
    before, after = answers(parent), answers(child)
    torch.testing.assert_close(after[:, [0, 2, 3]], before)
    assert (after[:, 1] <= before.amax(dim=1)).all()


def test_the_parent_is_left_alone(a_tiny_model, a_card):
    before = {n: t.clone() for n, t in a_tiny_model.network.state_dict().items()}
    child = Model.new(dataclasses.replace(a_card, classes=a_card.classes[:2]), size=32)
    child.take_over(a_tiny_model)
    with torch.no_grad():
        for parameter in child.network.parameters():
            parameter.fill_(7)
    assert all(t.equal(before[n]) for n, t in a_tiny_model.network.state_dict().items())


def test_a_card_without_a_model_file_can_be_read_alone(a_model_file, a_card):
    assert read_card(a_model_file) == a_card
