"""CAMs by pytorch-grad-cam 1.5.7: `PYTHONPATH=tests python tests/goldens/make_cams.py`, commit cams.npz.

Of torchvision's layouts of ResNet-18 and VGG-16 at an eighth of their width and 64 px, with the weights of
make_logits.py, rectified but neither normalized nor stretched; Eigen-CAMs with the sign of its SVD, before the ReLU.
Importing this file needs neither pytorch-grad-cam nor PyTorch.
"""

import numpy as np
from goldens import make_logits, make_relevance

FILE = make_logits.HERE / "cams.npz"
LAYERS = {"resnet18": "stage3", "vgg16": "relu5_3"}
TARGETS = {"resnet18": (3, 6), "vgg16": (5, 2)}  # with positive logits, by which Ablation-CAM divides
CAMS = {
    "grad_cam": "GradCAM",
    "layer_cam": "LayerCAM",
    "hires_cam": "HiResCAM",
    "xgrad_cam": "XGradCAM",
    "ablation_cam": "AblationCAM",
    "finer_cam": "FinerCAM",
    "eigen_cam": "EigenCAM",
    "eigen_grad_cam": "EigenGradCAM",
}


def net_and_layer(name: str):
    import torch
    import torch_nets

    sizes = make_relevance.SIZES
    if name == "vgg16":  # whose classifier sees 7 x 7 cells of 224 px; here 2 x 2 of 64
        net = torch_nets.vgg16(**sizes)
        first = net.classifier[0]
        net.avgpool = torch.nn.AdaptiveAvgPool2d(2)
        net.classifier[0] = torch.nn.Linear(first.in_features // 49 * 4, first.out_features)
        shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        net.load_state_dict({key: torch.from_numpy(value) for key, value in make_logits.state_dict(shapes).items()})
        return net.eval(), net.features[29]
    net = make_logits.torch_net(name, **sizes)
    return net, net.layer3


def cam(name: str, kind: str) -> np.ndarray:
    """[n, height, width]."""
    import pytorch_grad_cam
    import torch
    from pytorch_grad_cam import base_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net, layer = net_and_layer(name)
    mean, std = np.array(make_logits.MEAN), np.array(make_logits.STD)
    scaled = ((make_relevance.pictures() / 255 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    images, targets = torch.tensor(scaled.copy()), TARGETS[name]
    print(name, kind, net(images)[range(len(targets)), targets].tolist())
    base_cam.scale_cam_image = lambda cam, size=None: cam
    made = getattr(pytorch_grad_cam, kind)(net, [layer])
    if kind == "FinerCAM":  # one class for all pictures of a call
        parts = [made(images[i : i + 1], target_idx=target) for i, target in enumerate(targets)]
        return np.concatenate(parts)
    asked = [ClassifierOutputTarget(target) for target in targets]
    found = made(images, asked)
    if kind.startswith("Eigen"):
        hooks = made.activations_and_grads
        maps = hooks.activations[0].numpy()
        gradients = hooks.gradients[0].numpy() if hooks.gradients else None
        return made.get_cam_image(images, layer, asked, maps, gradients, False)
    return found


def main() -> None:
    np.savez_compressed(FILE, **{f"{net}.{ours}": cam(net, theirs) for net in LAYERS for ours, theirs in CAMS.items()})


if __name__ == "__main__":
    main()
