"""Features of networks that others published: their files' layouts, their input, refusals."""

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet

from ldm_project.diffusion.feature_networks import NAMES_BY_NUMBER, load_feature_network
from ldm_project.errors import CheckpointError

CPU = torch.device("cpu")


def medicalnet(depth):
    """Returns a random network of MedicalNet's geometry; see MONAI's own loader of its files."""
    has_bias, shortcut_type = resnet.get_medicalnet_pretrained_resnet_args(depth)
    torch.manual_seed(depth)
    return getattr(resnet, f"resnet{depth}")(
        spatial_dims=3,
        n_input_channels=1,
        conv1_t_stride=2,
        shortcut_type=shortcut_type,
        bias_downsample=has_bias,
        feed_forward=False,
    ).eval()


def radimagenet():
    torch.manual_seed(50)
    network = resnet.resnet50(
        spatial_dims=2,
        n_input_channels=3,
        conv1_t_stride=2,
        bias_downsample=False,
        feed_forward=False,
    )
    return network.eval()


def numbered(state):
    """Returns weights as RadImageNet's files name them: backbone.4.0.conv1.weight."""
    names = {}
    for name in state:
        number = next(old for old, own in NAMES_BY_NUMBER.items() if name.startswith(own))
        own = NAMES_BY_NUMBER[number]
        names[number + name.removeprefix(own)] = state[name]
    return names


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    "depth", [10, 18, pytest.param(34, marks=SLOW), pytest.param(50, marks=SLOW)]
)
def test_medicalnet_file_gives_its_networks_features(tmp_path, depth):
    network = medicalnet(depth)
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    state["module.conv_seg.0.weight"] = torch.zeros(1)  # the head of its segmentation files
    torch.save({"state_dict": state}, tmp_path / "medicalnet.pth")
    found = load_feature_network(tmp_path / "medicalnet.pth", 3, CPU)
    volumes = torch.rand(2, 1, 16, 16, 16)
    normal = torch.stack([(volume - volume.mean()) / volume.std() for volume in volumes])
    expected = network(normal).detach().double().numpy()
    np.testing.assert_allclose(found.features(volumes), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [numbered, dict])
def test_radimagenet_file_gives_its_networks_features(tmp_path, layout):
    network = radimagenet()
    state = layout(network.state_dict()) | {"fc.weight": torch.zeros(165, 2048)}
    torch.save(state, tmp_path / "ResNet50.pt")
    found = load_feature_network(tmp_path / "ResNet50.pt", 2, CPU)
    images = torch.rand(2, 1, 224, 224) * 2 - 1  # as large as it wants them: not resized
    expected = network(images.expand(-1, 3, -1, -1)).detach().double().numpy()
    assert expected.shape == (2, 2048)
    np.testing.assert_allclose(found.features(images), expected, rtol=1e-4, atol=1e-5)


def test_constant_volume_has_features(tmp_path):
    torch.save(medicalnet(10).state_dict(), tmp_path / "medicalnet.pth")
    found = load_feature_network(tmp_path / "medicalnet.pth", 3, CPU)
    assert np.isfinite(found.features(torch.zeros(1, 1, 16, 16, 16))).all()


@pytest.mark.slow
def test_network_of_other_dimensions_is_refused(tmp_path):
    torch.save(medicalnet(10).state_dict(), tmp_path / "medicalnet.pth")
    with pytest.raises(CheckpointError, match="is for 3D images, and dims is 2"):
        load_feature_network(tmp_path / "medicalnet.pth", 2, CPU)


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        {"conv1.weight": torch.zeros(64, 1, 7, 7, 7)},  # no blocks
        {"epoch": 3},
        [torch.zeros(3)],
        medicalnet(10).state_dict() | {"layer1.0.conv1.weight": torch.zeros(1)},
    ],
)
def test_file_of_another_network_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="holds no ResNet of MedicalNet or RadImageNet"):
        load_feature_network(tmp_path / "other.pth", 3, CPU)


def test_file_that_is_missing_or_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "text.pth").write_text("not a checkpoint")
    for path in (tmp_path / "missing.pth", tmp_path / "text.pth", tmp_path):
        with pytest.raises(CheckpointError, match=r"cannot be read .*Give a checkpoint"):
            load_feature_network(path, 3, CPU)
