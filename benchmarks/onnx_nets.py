"""How long ONNX files of torchvision's nets take to read, and whether zfjax and onnxruntime give the same logits.

python benchmarks/onnx_nets.py [NAME …]

Weights are random. Needs torch, torchvision, onnx and onnxruntime; `--dynamo` exports with PyTorch's newer exporter,
which needs onnxscript too.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np

NETS = (
    *("alexnet", "vgg11", "resnet18", "resnet50", "densenet121", "googlenet", "inception_v3", "squeezenet1_1"),
    *("shufflenet_v2_x0_5", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "vit_b_16"),
)


def export(name: str, path: pathlib.Path, dynamo: bool) -> None:
    """Write a net of torchvision with random weights and running averages."""
    import torch
    import torchvision

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    settings = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    net = getattr(torchvision.models, name)(weights=None, **settings).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    if name.startswith("vit"):  # else all logits are zero
        torch.nn.init.normal_(net.heads.head.weight, std=0.05)
    side = 299 if name == "inception_v3" else 224
    settings = {"external_data": False} if dynamo else {"opset_version": 17}
    torch.onnx.export(net, (torch.zeros(1, 3, side, side),), path, dynamo=dynamo, **settings)


def measure(name: str, path: pathlib.Path) -> None:
    """Print a row of the table."""
    import jax
    import onnxruntime

    import zfjax

    started = time.perf_counter()
    model = zfjax.from_onnx(path)
    read = time.perf_counter()
    str(model)
    named = time.perf_counter()
    images = np.random.default_rng(0).standard_normal((2, *model.image_shape)).astype(np.float32)
    found = np.asarray(jax.jit(model)(images))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    port = session.get_inputs()[0].name
    expected = np.concatenate([session.run(None, {port: image[None].transpose(0, 3, 1, 2)})[0] for image in images])
    wrong = np.abs(found - expected).max() / np.abs(expected).max()
    size, memory = path.stat().st_size / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    times = f"{read - started:.1f} s | {named - read:.1f} s"
    print(f"| {name} | {size:.0f} MB | {len(model.layers)} | {times} | {wrong:.0e} |")
    print(f"{memory:.0f} MB at most, with the program and onnxruntime", file=sys.stderr)


def main() -> None:
    """Each net in processes of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=NETS)
    parser.add_argument("--dynamo", action="store_true")
    parser.add_argument("--step", nargs=2, metavar=("STEP", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step, path = args.step[0], pathlib.Path(args.step[1])
        export(args.names[0], path, args.dynamo) if step == "export" else measure(args.names[0], path)
        return
    print("| net | file | places | read | named, as a table | difference |\n|---|---|---|---|---|---|", flush=True)
    for name in args.names:
        with tempfile.TemporaryDirectory() as folder:
            for step in ("export", "measure"):
                words = [name, "--step", step, f"{folder}/net.onnx", *(["--dynamo"] if args.dynamo else [])]
                subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    main()
