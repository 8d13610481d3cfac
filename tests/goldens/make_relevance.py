"""Relevance by zennit 0.5.1: `PYTHONPATH=tests python tests/goldens/make_relevance.py`, commit relevance.npz.

zennit's composites on torchvision's layouts of ResNet-18 and VGG-16 at an eighth of their width and 64 px, with the
weights of make_logits.py, from the logit itself. Every third row and column is stored. Importing this file needs
neither zennit nor PyTorch.
"""

import numpy as np
from goldens import make_logits

FILE = make_logits.HERE / "relevance.npz"
NETS = ("resnet18", "vgg16")
SIZES = {"classes": 7, "width": 1 / 8}
SIZE, TARGETS = 64, (3, 5)
COMPOSITES = {
    "EPSILON_PLUS": "EpsilonPlus",
    "EPSILON_PLUS_FLAT": "EpsilonPlusFlat",
    "EPSILON_GAMMA_BOX": "EpsilonGammaBox",
    "EPSILON_ALPHA2_BETA1": "EpsilonAlpha2Beta1",
    "EPSILON_ALPHA2_BETA1_FLAT": "EpsilonAlpha2Beta1Flat",
}


def pictures() -> np.ndarray:
    """[n, SIZE, SIZE, 3] in 0..255: squares of random colors, and noise so that no two pixels of a pool are equal."""
    noise = np.random.RandomState(0).uniform(-40, 40, (len(TARGETS), SIZE, SIZE, 3))
    return np.clip(make_logits.pictures(len(TARGETS), SIZE) + noise, 0, 255).astype(np.float32)


def thinned(pixels: np.ndarray) -> np.ndarray:
    return pixels[:, ::3, ::3]


def net_and_canonizers(name: str):
    """A net as zennit needs it: sums, activations and pools are modules."""
    import torch
    import torch_nets
    from zennit.canonizers import AttributeCanonizer, SequentialMergeBatchNorm
    from zennit.layer import Sum

    nn = torch.nn
    if name == "vgg16":  # whose classifier sees 7 x 7 cells of 224 px; here 2 x 2 of 64
        whole = torch_nets.vgg16(**SIZES)
        first = whole.classifier[0]
        whole.avgpool = nn.AdaptiveAvgPool2d(2)
        whole.classifier[0] = nn.Linear(first.in_features // 49 * 4, first.out_features)
        return whole, [SequentialMergeBatchNorm()]

    def block(self, x):
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        beside = self.downsample(x) if self.downsample else x
        return self.relu2(self.sum(torch.stack([beside, y], dim=-1)))

    def net(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))

    def attributes(_, module):
        if isinstance(module, torch_nets.BasicBlock):
            return {"forward": block.__get__(module), "sum": Sum()}
        return {"forward": net.__get__(module)} if isinstance(module, torch_nets.ResNet) else None

    whole = torch_nets.resnet18(**SIZES)
    whole.relu, whole.avgpool = nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    for module in whole.modules():
        if isinstance(module, torch_nets.BasicBlock):
            module.relu1, module.relu2 = nn.ReLU(), nn.ReLU()
    return whole, [SequentialMergeBatchNorm(), AttributeCanonizer(attributes)]


def relevance(name: str, composite: str) -> np.ndarray:
    """[n, SIZE, SIZE, 3]."""
    import torch
    import zennit.composites
    from zennit.attribution import Gradient

    net, canonizers = net_and_canonizers(name)
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    net.load_state_dict({key: torch.from_numpy(value) for key, value in make_logits.state_dict(shapes).items()})
    mean, std = np.array(make_logits.MEAN), np.array(make_logits.STD)
    scaled = ((pictures() / 255 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    bounds = {}
    if composite == "EpsilonGammaBox":
        low, high = (((end - mean) / std).astype(np.float32).reshape(1, 3, 1, 1) for end in (0, 1))
        bounds = {"low": torch.tensor(low), "high": torch.tensor(high)}
    made = getattr(zennit.composites, composite)(canonizers=canonizers, **bounds)
    target = torch.eye(SIZES["classes"])[list(TARGETS)]
    with Gradient(net.eval(), made) as attributor:
        logits, found = attributor(torch.tensor(scaled.copy(), requires_grad=True), lambda output: output * target)
    print(name, composite, (logits * target).sum(1).tolist(), found.sum((1, 2, 3)).tolist())
    return found.numpy().transpose(0, 2, 3, 1)


def main() -> None:
    found = {f"{net}.{ours}": thinned(relevance(net, theirs)) for net in NETS for ours, theirs in COMPOSITES.items()}
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
