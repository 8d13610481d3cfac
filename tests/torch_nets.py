"""Nets as plain PyTorch builds them, in torchvision's layout: its names of modules, so its state_dicts' keys.

`width` scales the numbers of maps and units. `zfnet_post` is the blog post's class with 3×3 filters in conv5. Those of
pytorchcv are that package's own (`pip install --no-deps pytorchcv`; it wants torchvision, but its ZFNets don't).
"""

from functools import partial

import torch
from torch import nn


def alexnet(classes=1000, width=1.0):
    a, b, c, d, e = (_scaled(maps, width) for maps in (64, 192, 384, 256, 256))
    features = nn.Sequential(
        *(nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(c, d, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )
    return Plain(features, 6, _dropout_first(36 * e, _scaled(4096, width), classes))


def zfnet_post(classes=1000, width=1.0):
    a, b, c, d, e = (_scaled(maps, width) for maps in (96, 256, 384, 384, 256))
    features = nn.Sequential(
        *(nn.Conv2d(3, a, 7, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)),
        *(nn.Conv2d(a, b, 5, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)),
        *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(c, d, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )
    return Plain(features, 6, _dropout_first(36 * e, _scaled(4096, width), classes))


def vgg16(classes=1000, width=1.0):
    layers, below = [], 3
    for convs, maps in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        above = _scaled(maps, width)
        for _ in range(convs):
            layers += [nn.Conv2d(below, above, 3, padding=1), nn.ReLU()]
            below = above
        layers.append(nn.MaxPool2d(2, 2))
    units = _scaled(4096, width)
    classifier = nn.Sequential(
        *(nn.Linear(49 * below, units), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(units, units), nn.ReLU(), nn.Dropout()),
        nn.Linear(units, classes),
    )
    return Plain(nn.Sequential(*layers), 7, classifier)


def zfnet512(classes=1000, width=1.0):
    a, b, c, units, fewer = (_scaled(count, width) for count in (96, 256, 512, 4096, 1024))
    features = nn.Sequential(
        *(nn.Conv2d(3, a, 7, 2), nn.ReLU(), nn.LocalResponseNorm(5, k=2), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(nn.Conv2d(a, b, 5, 2), nn.ReLU(), nn.LocalResponseNorm(5, k=2), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(c, c, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(c, c, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)),
    )
    classifier = nn.Sequential(
        *(nn.Linear(36 * c, units), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(units, fewer), nn.ReLU(), nn.Dropout()),
        nn.Linear(fewer, classes),
    )
    return Plain(features, 6, classifier)


def zfnet_pytorchcv(classes=1000, width=1.0):
    from pytorchcv.models.zfnet import zfnet

    return _narrowed(zfnet(num_classes=classes), classes, width)


def zfnetb_pytorchcv(classes=1000, width=1.0):
    from pytorchcv.models.zfnet import zfnetb

    return _narrowed(zfnetb(num_classes=classes), classes, width)


def _narrowed(net, classes, width):
    """The package's net with smaller weights, which is all that its modules look at."""
    below = 3
    for module in net.modules() if width != 1 else ():
        if isinstance(module, nn.Conv2d):
            above = _scaled(module.out_channels, width)
            module.weight = nn.Parameter(torch.empty(above, below, *module.kernel_size))
        elif isinstance(module, nn.Linear):
            below = 36 * below if module.in_features % 36 == 0 else below
            above = classes if module.out_features == classes else _scaled(module.out_features, width)
            module.weight = nn.Parameter(torch.empty(above, below))
        else:
            continue
        module.bias = nn.Parameter(torch.empty(above))
        below = above
    return net


class Plain(nn.Module):
    def __init__(self, features, side, classifier):
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.classifier = classifier

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class ResNet(nn.Module):
    def __init__(self, block, blocks, expansion, classes=1000, width=1.0):
        super().__init__()
        below = _scaled(64, width)
        self.conv1 = nn.Conv2d(3, below, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(below)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, count in enumerate(blocks):
            maps = _scaled(64 * 2**stage, width)
            layer = []
            for number in range(count):
                layer.append(block(below, maps, 2 if stage and not number else 1))
                below = expansion * maps
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(below, classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class BasicBlock(nn.Module):
    def __init__(self, below, maps, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(below, maps, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(maps)
        self.conv2 = nn.Conv2d(maps, maps, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(maps)
        self.downsample = _downsample(below, maps, stride)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (self.downsample(x) if self.downsample else x))


class Bottleneck(nn.Module):
    def __init__(self, below, maps, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(below, maps, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(maps)
        self.conv2 = nn.Conv2d(maps, maps, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(maps)
        self.conv3 = nn.Conv2d(maps, 4 * maps, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * maps)
        self.downsample = _downsample(below, 4 * maps, stride)

    def forward(self, x):
        y = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return torch.relu(self.bn3(self.conv3(y)) + (self.downsample(x) if self.downsample else x))


resnet18 = partial(ResNet, BasicBlock, (2, 2, 2, 2), 1)
resnet34 = partial(ResNet, BasicBlock, (3, 4, 6, 3), 1)
resnet50 = partial(ResNet, Bottleneck, (3, 4, 6, 3), 4)

NETS = {
    "alexnet": alexnet,
    "vgg16": vgg16,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "zfnet_post": zfnet_post,
    "zfnet_pytorchcv": zfnet_pytorchcv,
    "zfnetb_pytorchcv": zfnetb_pytorchcv,
    "zfnet512": zfnet512,
}


def _dropout_first(features, units, classes):
    return nn.Sequential(
        *(nn.Dropout(), nn.Linear(features, units), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(units, units), nn.ReLU()),
        nn.Linear(units, classes),
    )


def _downsample(below, above, stride):
    if stride == 1 and below == above:
        return None
    return nn.Sequential(nn.Conv2d(below, above, 1, stride, bias=False), nn.BatchNorm2d(above))


def _scaled(features, width):
    return max(1, round(features * width))
