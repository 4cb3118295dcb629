"""2D networks of segmentation-models-pytorch: every architecture with every encoder that it accepts."""

from __future__ import annotations

import difflib
import logging
import pickle
import re
import socket
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from ..errors import DependencyError, ModelError, SettingsError
from ..settings import TrainSettings
from . import detail

_REACHED_SECONDS = 5.0  # how long the server of the weights may take to answer the first call
_OF_NETWORKS = ("httpx", "httpx2", "httpcore", "httpcore2", "huggingface_hub", "requests", "urllib3")
_TRIAL_SIDE = 64  # px; every U-Net takes it
_HALVING_DECODERS = ("Unet", "UnetPlusPlus", "MAnet")
_DECODER_CHANNELS = (256, 128, 64, 32, 16)
_PREFIXES = re.compile(r"^((module|network|encoder|model)\.)*")


def build(settings: TrainSettings, weights: str, *, channels: int, classes: int, size: int | None) -> nn.Module:
    """Make a network.

    Args:
        settings: Architecture, encoder and its depth, as segmentation-models-pytorch names them; ``tu-…`` encoders
            come from timm.
        weights: ``"none"``, the name of weights that the encoder offers (``"imagenet"``), or a local file.
        channels: Input channels.
        classes: Output channels.
        size: Side in pixels of the crops that it will learn from; a pair that cannot take them is refused here.
            0 tries nothing; None leaves every stage in too, for a network that is loaded: see ``drop_absent_stages``.

    Raises:
        SettingsError: The encoder is unknown, or does not go with the architecture.
        DependencyError: The weights are not on this machine and cannot be downloaded.
        ModelError: The local file holds no weights for this encoder.
    """
    architecture, encoder = settings.architecture, settings.encoder
    _refuse_unknown(encoder)
    outputs = detail.FEATURES if settings.full_resolution else classes
    network = _created(settings, _offered(encoder, weights), channels, outputs)
    if weights != "none" and not Path(weights).is_file() and _offered(encoder, weights) is None:
        raise SettingsError(
            f'The encoder {encoder} has no weights "{weights}", and there is no file of that name.',
            f"Use one of: {', '.join(['none', *_weight_names(encoder)])}, or a local file.",
        )
    if settings.full_resolution:
        network = detail.Detailed(network, channels, classes)
    if size:
        _try_out(network, architecture, encoder, channels, size)
    if size is not None and architecture in _HALVING_DECODERS:
        _drop_unused_stages(network, channels)
    if Path(weights).is_file():
        _load_encoder(network, Path(weights))
    return network


def drop_absent_stages(network: nn.Module, tensors: Collection[str]) -> None:
    """Take out the last parts of the encoder that were taken out before the network was saved.

    Args:
        network: As ``build`` makes it without a size.
        tensors: The names of what was saved.
    """
    plain = network.network if isinstance(network, detail.Detailed) else network
    if type(plain).__name__ not in _HALVING_DECODERS:
        return
    prefix = next(name for name, module in network.named_modules() if module is network.encoder)
    for name, stage in reversed(list(network.encoder.named_children())):
        if any(tensor.startswith(f"{prefix}.{name}.") for tensor in tensors):
            return
        if any(True for _ in stage.parameters()):
            setattr(network.encoder, name, nn.Identity())


def multiple_of(network: nn.Module) -> int:
    """Return the number that the sides of the network's input have to be a multiple of."""
    stride = int(getattr(network.encoder, "output_stride", 32))
    plain = network.network if isinstance(network, detail.Detailed) else network
    return max(16 if type(plain).__name__ in _HALVING_DECODERS else 32, stride)


def smallest_of(network: nn.Module) -> int:
    """Return the number that the sides of the network's input must not fall below.

    PAN halves three times what its encoder has left, and at least one pixel must remain.
    """
    plain = network.network if isinstance(network, detail.Detailed) else network
    return 8 * int(network.encoder.output_stride) if type(plain).__name__ == "PAN" else 1


def last_layer(network: nn.Module) -> str:
    """Return what the names of the tensors begin with whose rows are the classes."""
    if isinstance(network, detail.Detailed):
        return "last."
    convolutions = [name for name, m in network.segmentation_head.named_modules() if isinstance(m, nn.Conv2d)]
    return f"segmentation_head.{convolutions[-1]}."


def _smp() -> Any:
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise DependencyError(
            f"segmentation-models-pytorch cannot be loaded ({error}).",
            "Install it: pip install segmentation-models-pytorch",
        ) from None
    return smp


def _refuse_unknown(encoder: str) -> None:
    import timm

    own = _smp().encoders.get_encoder_names()
    if encoder in own or (encoder.startswith("tu-") and timm.is_model(encoder.removeprefix("tu-"))):
        return
    known = own + [f"tu-{name}" for name in timm.list_models()]
    near = difflib.get_close_matches(encoder, known, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else "The list is in the documentation of timm and smp."
    raise SettingsError(f'There is no encoder "{encoder}".', hint)


def _weight_names(encoder: str) -> list[str]:
    if encoder.startswith("tu-"):
        return ["imagenet"]
    return list(_smp().encoders.encoders[encoder]["pretrained_settings"])


def _offered(encoder: str, weights: str) -> str | None:
    """Return the weights as smp takes them, or None where it does not offer them."""
    if weights == "none" or Path(weights).is_file():
        return None
    return weights if weights in _weight_names(encoder) else None


def _stages(settings: TrainSettings) -> dict[str, Any]:
    """Return the arguments that say how deep a network is.

    Four stages are enough for the textures and small shapes of tomograms, at half the cost of five.
    """
    depth = settings.encoder_depth
    if settings.architecture not in _HALVING_DECODERS:
        return {"encoder_depth": depth} if depth else {}
    if not depth:
        depth = 5 if settings.encoder.startswith(("tu-", "mit_")) else 4
    return {"encoder_depth": depth, "decoder_channels": _DECODER_CHANNELS[-depth:]}


def _created(settings: TrainSettings, weights: str | None, channels: int, classes: int) -> nn.Module:
    architecture, encoder = settings.architecture, settings.encoder
    stages = _stages(settings) | ({"dynamic_img_size": True} if architecture == "DPT" else {})
    wanted = True if weights and encoder.startswith("tu-") else weights
    try:
        with _impatient(weights is not None):
            return _smp().create_model(
                architecture,
                encoder_name=encoder,
                encoder_weights=wanted,
                in_channels=channels,
                classes=classes,
                **stages,
            )
    except DependencyError:
        raise
    except Exception as error:
        if weights is not None and _is_unreachable(error):
            raise DependencyError(
                f'The "{weights}" weights of {encoder} are not on this machine and cannot be downloaded.',
                "Connect to the internet once (they are kept in the Hugging Face cache), give a local file with "
                "--weights FILE, or start without: --weights none.",
            ) from None
        raise SettingsError(
            f"The architecture {architecture} does not take the encoder {encoder} ({_first_line(error)}).",
            "Choose another pair; Unet takes nearly every encoder.",
        ) from None


@contextmanager
def _impatient(is_loading: bool) -> Iterator[None]:
    """Let downloads fail at once where the server is out of reach: huggingface_hub would try for half a minute."""
    if not is_loading:
        yield
        return
    from huggingface_hub import constants as hub

    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = before or not _is_reachable(hub.ENDPOINT)
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def _is_reachable(address: str) -> bool:
    if urllib.request.getproxies():
        return True  # only the proxy knows
    server = urlsplit(address)
    port = server.port or (80 if server.scheme == "http" else 443)
    try:
        socket.create_connection((server.hostname or "", port), timeout=_REACHED_SECONDS).close()
    except OSError:
        return False
    return True


def _is_unreachable(error: BaseException | None) -> bool:
    """Tell whether an error, or what caused it, comes from the network or from an empty cache."""
    while error is not None:
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _OF_NETWORKS:
            return True
        error = error.__cause__ or error.__context__
    return False


def _try_out(network: nn.Module, architecture: str, encoder: str, channels: int, size: int) -> None:
    """Run a network once on an empty picture, so that a pair that does not work fails before the training.

    The picture is not square: slices are of any shape, whatever that of the crops.
    """
    multiple, smallest = multiple_of(network), smallest_of(network)
    side = -(-size // multiple) * multiple
    if side < smallest:
        raise SettingsError(
            f"{architecture} with the encoder {encoder} takes no crops below {smallest} px, and these have {side}.",
            f"Choose another pair, or train on larger slices with crop_size={smallest}.",
        )
    sides = (side, side + multiple)
    network.eval()
    try:
        with torch.inference_mode():
            shape = network(torch.zeros(1, channels, *sides)).shape
    except Exception as error:
        raise SettingsError(
            f"{architecture} with the encoder {encoder} fails on {side} × {side + multiple} px ({_first_line(error)}).",
            "Choose another pair, or another crop_size.",
        ) from None
    if shape[-2:] != sides:
        raise SettingsError(
            f"{architecture} with the encoder {encoder} returns {tuple(shape[-2:])} pixels for {sides}.",
            "Choose another pair.",
        )


def _drop_unused_stages(network: nn.Module, channels: int) -> None:
    """Take out the parts of an encoder that no answer depends on: with four stages, half of a ResNet's weights."""
    network.eval()
    network(torch.zeros(1, channels, _TRIAL_SIDE, _TRIAL_SIDE)).sum().backward()
    for name, stage in list(network.encoder.named_children()):
        parameters = list(stage.parameters())
        if parameters and all(parameter.grad is None for parameter in parameters):
            setattr(network.encoder, name, nn.Identity())
    network.zero_grad(set_to_none=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _load_encoder(network: nn.Module, path: Path) -> None:
    """Load encoder weights from a local file; the first layer is fitted to the number of channels."""
    found = _read_tensors(path)
    wanted = network.encoder.state_dict()
    names = {_stem(name): name for name in wanted}
    fitting = {}
    for name, tensor in ((names.get(_stem(theirs)), tensor) for theirs, tensor in found.items()):
        if name is not None and (fitted := _fitted(tensor, wanted[name])) is not None:
            fitting[name] = fitted
    if len(fitting) < 0.8 * len(wanted):
        raise ModelError(
            f'"{path.name}" holds {len(fitting)} of the {len(wanted)} weights of this encoder.',
            "Choose a file that was made with the same encoder.",
        )
    network.encoder.load_state_dict(fitting, strict=False)
    logging.getLogger(__name__).info("%d of %d encoder weights from %s", len(fitting), len(wanted), path)


def _stem(name: str) -> str:
    """Return what is the same in all names of a tensor: timm's ``stages.0``, say, is ``model.stages_0`` in smp."""
    return _PREFIXES.sub("", name).replace(".", "_")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from .file import read_tensors

            return read_tensors(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        return {n: t for n, t in loaded.get("state_dict", loaded).items() if isinstance(t, Tensor)}
    except ModelError:
        raise
    except pickle.UnpicklingError:
        raise ModelError(
            f'"{path.name}" is damaged, or holds more than weights; it was not opened, since that could run programs.',
            "Give a .safetensors file, or a .pth file that holds a state dictionary.",
        ) from None
    except Exception as error:
        raise ModelError(
            f'The weights in "{path.name}" cannot be read ({_first_line(error)}).',
            "Give a .safetensors file, or a .pth file that holds a state dictionary.",
        ) from None


def _fitted(tensor: Tensor, wanted: Tensor) -> Tensor | None:
    """Return a tensor in the wanted shape: input channels are repeated, and scaled so that the sum stays."""
    if tensor.shape == wanted.shape:
        return tensor
    rest = (0, *range(2, tensor.ndim))
    if tensor.ndim != 4 or [tensor.shape[n] for n in rest] != [wanted.shape[n] for n in rest if n < wanted.ndim]:
        return None
    have, need = tensor.shape[1], wanted.shape[1]
    return tensor[:, torch.arange(need) % have] * (have / need)
