from __future__ import annotations

import dataclasses

import pytest
import torch

from VolumeSegmanticsLib.card import ModelCard
from VolumeSegmanticsLib.errors import ModelError
from VolumeSegmanticsLib.features import Features
from VolumeSegmanticsLib.models import Model
from VolumeSegmanticsLib.models.local import LocalNetwork, sight
from VolumeSegmanticsLib.settings import TrainSettings


@pytest.fixture
def a_local_card(a_card) -> ModelCard:
    settings = TrainSettings(model="local", octaves=2, members=3, width=8)
    return dataclasses.replace(a_card, model="local", settings=settings.to_dict())


@pytest.fixture
def a_network() -> LocalNetwork:
    torch.manual_seed(0)
    network = LocalNetwork(features=14, classes=3, members=4, width=6)
    network.mean.uniform_()
    network.deviation.uniform_(0.5, 2)
    return network.eval()


def test_a_local_model_survives_the_way_to_disk_and_back(a_local_card, tmp_path):
    model = Model.new(a_local_card, size=0)
    model.network.bias.fill_(0.5)
    model.network.mean.uniform_()
    loaded = Model.load(model.save(tmp_path / "lokal.safetensors"))
    assert loaded.card == model.card
    theirs = loaded.network.state_dict()
    assert all(tensor.equal(theirs[name]) for name, tensor in model.network.state_dict().items())


def test_weights_of_another_number_of_octaves_do_not_fit(a_local_card, tmp_path):
    model = Model.new(a_local_card, size=0)
    model.card = dataclasses.replace(a_local_card, settings={**a_local_card.settings, "octaves": 1})
    with pytest.raises(ModelError, match="do not fit"):
        Model.load(model.save(tmp_path / "m.safetensors"))


def test_new_local_models_of_one_seed_are_the_same(a_local_card):
    first, again = (Model.new(a_local_card, size=0).network.weights[0] for _ in range(2))
    assert first.equal(again)
    assert not first[0].equal(first[1])  # but its members are not


def test_probabilities_are_the_mean_of_what_the_members_say_about_standard_features(a_network):
    features = torch.randn(14, 50)
    with torch.inference_mode():
        standard = ((features - a_network.mean) / a_network.deviation).expand(4, -1, -1)
        expected = a_network.member_logits(standard).softmax(dim=1).mean(dim=0)
        found = a_network(features)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(50))


def test_a_bias_makes_a_class_rarer(a_network):
    features = torch.randn(14, 50)
    with torch.inference_mode():
        before = a_network(features)
        a_network.bias[1] = -3
        after = a_network(features)
    assert (after[1] < before[1]).all()
    torch.testing.assert_close(after.sum(dim=0), torch.ones(50))


@pytest.mark.parametrize(("octaves", "members"), [(1, 1), (1, 4), (2, 4), (3, 2), (3, 4), (4, 16)])
def test_the_last_way_of_seeing_is_to_see_everything(octaves, members):
    seen = sight(octaves, members, channels=2)
    assert seen.shape == (members, Features(octaves).count(2))
    assert seen.any(dim=0).all()
    assert seen.all(dim=1).any()


def test_members_see_further_and_further():
    """Two octaves and four members: the first alone, with its local means, the second, with its local means."""
    assert sight(2, 4, channels=1).sum(dim=1).tolist() == [9, 14, 17, 27]
