"""torchvision works whether or not its compiled operators were made for this build of torch."""

from __future__ import annotations

import torch

from workloads.data.torchvision_import import import_torchvision


def test_models_transforms_and_datasets_work():
    models = import_torchvision("torchvision.models")
    transforms = import_torchvision("torchvision.transforms.v2")
    datasets = import_torchvision("torchvision.datasets")
    with torch.no_grad():
        assert models.resnet18().eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    assert transforms.CenterCrop(4)(torch.zeros(3, 8, 8)).shape == (3, 4, 4)
    assert len(datasets.FakeData(size=3, image_size=(1, 2, 2))) == 3


def test_importing_twice_gives_the_same_module():
    assert import_torchvision() is import_torchvision()
