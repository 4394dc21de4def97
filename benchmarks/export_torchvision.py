"""Export torchvision's classifiers, with seeded random weights, by both PyTorch exporters.

    python benchmarks/export_torchvision.py --out exports --models alexnet vgg16 --exporter both

Needs torch, torchvision and onnxscript. The files are called ``MODEL.torchscript.onnx`` and
``MODEL.dynamo.onnx`` (``MODEL.EXPORTER.batch.onnx`` with ``--dynamic-batch``), input (1, 3, 224, 224),
299 pixels for Inception v3. No weights are downloaded: they are random, scaled so that the outputs
depend on the image (see fixtures/lively.py). The printed variation is the spread over images divided by
the overall spread of the outputs: 0 for a dead network, about 1 for a lively one.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))
from lively import enliven, images, variation

FAMILIES: dict[str, tuple[str, ...]] = {
    "alexnet": ("alexnet",),
    "vgg": ("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    "resnet": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "resnext": ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    "wide_resnet": ("wide_resnet50_2", "wide_resnet101_2"),
    "densenet": ("densenet121", "densenet161", "densenet169", "densenet201"),
    "googlenet": ("googlenet",),
    "inception": ("inception_v3",),
    "squeezenet": ("squeezenet1_0", "squeezenet1_1"),
    "mobilenet": ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    "mnasnet": ("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"),
    "shufflenet": ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    "efficientnet": (*(f"efficientnet_b{i}" for i in range(8)),),
    "efficientnet_v2": ("efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"),
    "regnet": (
        *(f"regnet_x_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")),
        *(f"regnet_y_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf", "128gf")),
    ),
    "convnext": ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
    # Transformers, which a rewriter has to refuse.
    "vit": ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32"),
    "swin": ("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b"),
    "maxvit": ("maxvit_t",),
}
LIKE = ("lenet5", "vgg16_quarter")
"""Not torchvision's: LeNet-5 for colours, as PyTorch's tutorial has it, and a VGG-16 of a quarter of its channels."""
EXPORTERS = ("torchscript", "dynamo")


def _has_compiled_operators() -> bool:
    """Whether torchvision's shared library fits the torch that is installed."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise SystemExit("torchvision is not installed")
    for library in Path(spec.origin).parent.glob("_C*.*"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return True
    return False


@cache
def torchvision_models() -> Any:
    """``torchvision.models``, also where torchvision's compiled operators do not load.

    Its modules refer to these two operators while they are imported; declaring them is enough,
    since no classifier calls them.
    """
    if not _has_compiled_operators():
        arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", arguments)
    return importlib.import_module("torchvision.models")


def _lenet5() -> nn.Module:
    layers = [nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


def _vgg16_quarter() -> nn.Module:
    """64 channels are 16 and 512 are 128, the FC layers' 4096 features 1024: a sixteenth of the multiply-adds."""
    vgg = importlib.import_module("torchvision.models.vgg")
    model: nn.Module = vgg.VGG(vgg.make_layers([n if n == "M" else n // 4 for n in vgg.cfgs["D"]]), init_weights=False)
    layers = [nn.Linear(128 * 49, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1000)]
    model.classifier = nn.Sequential(*layers)
    return model


def build(name: str, seed: int) -> tuple[nn.Module, int]:
    """The named classifier with seeded, lively random weights, and its native size in pixels."""
    models = torchvision_models()
    torch.manual_seed(seed)
    if name in LIKE:
        size, made = (32, _lenet5()) if name == "lenet5" else (224, _vgg16_quarter())
        return enliven(made, images(6, (3, size, size), seed)), size
    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        # transform_input as the released weights have it; the auxiliary heads never reach an export.
        options |= {"aux_logits": False, "init_weights": False, "transform_input": True}
    size = 299 if name == "inception_v3" else 224
    model: nn.Module = getattr(models, name)(**options)
    for key, parameter in model.named_parameters():
        if key.endswith("layer_scale"):  # 1e-6 at first: nothing of the branch would be seen
            nn.init.uniform_(parameter, 0.3, 1.0)
    return enliven(model, images(6, (3, size, size), seed)), size


def export_torchscript(model: nn.Module, image: torch.Tensor, path: Path, dynamic_batch: bool) -> None:
    axes = {"input": {0: "batch"}, "output": {0: "batch"}} if dynamic_batch else None
    torch.onnx.export(
        model,
        (image,),
        str(path),
        dynamo=False,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes=axes,
    )


def export_dynamo(model: nn.Module, image: torch.Tensor, path: Path, dynamic_batch: bool) -> None:
    example = image.repeat(2, 1, 1, 1) if dynamic_batch else image
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    torch.onnx.export(
        model,
        (example,),
        str(path),
        dynamo=True,
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=shapes,
        external_data=_too_large(model),
        verbose=False,
    )


def _too_large(model: nn.Module) -> bool:
    """Whether the weights do not fit into one protobuf; torch's older exporter sees to it on its own."""
    return sum(p.numel() * p.element_size() for p in model.parameters()) > 2e9


EXPORT: dict[str, Callable[[nn.Module, torch.Tensor, Path, bool], None]] = {
    "torchscript": export_torchscript,
    "dynamo": export_dynamo,
}


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """Write elsewhere and move to ``path``'s folder when done, so that a file that exists is complete."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        yield Path(folder) / path.name
        for part in sorted(Path(folder).iterdir(), key=lambda item: item.name == path.name):
            part.replace(path.parent / part.name)


def _run(path: Path, batch: np.ndarray, threads: int) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None]})[0] for image in batch])


def export_one(name: str, exporters: list[str], out: Path, args: argparse.Namespace) -> None:
    """Export one model by ``exporters`` and print one line for each file."""
    suffix = ".batch" if args.dynamic_batch else ""
    targets = {e: out / f"{name}.{e}{suffix}.onnx" for e in exporters}
    targets = {e: path for e, path in targets.items() if args.force or not path.exists()}
    if not targets:
        return
    model, size = build(name, args.seed)
    batch = images(3, (3, size, size), args.seed + 1)
    with torch.no_grad():
        expected = torch.cat([model(image[None]) for image in batch]).numpy()
    for exporter, path in targets.items():
        begin = time.perf_counter()
        try:
            with _partial(path) as part, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                EXPORT[exporter](model, batch[:1], part, args.dynamic_batch)
        except Exception as error:
            print(
                f"{path.name:44} NOT EXPORTED: {type(error).__name__}: {str(error).splitlines()[0]}",
                flush=True,
            )
            continue
        seconds = time.perf_counter() - begin
        actual = _run(path, batch.numpy(), args.threads)
        deviation = float(np.abs(actual - expected).max() / np.abs(expected).max())
        print(
            f"{path.name:44} {path.stat().st_size / 1e6:8.1f} MB {seconds:6.1f} s  "
            f"variation {variation(actual):.2f}  deviation from torch {deviation:.1e}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("exports"), help="folder for the files")
    parser.add_argument("--list", action="store_true", help="only print the models' names")
    parser.add_argument("--models", nargs="+", default=["all"], help="models, families, or 'all' (the default)")
    parser.add_argument("--exporter", choices=(*EXPORTERS, "both"), default="both")
    parser.add_argument("--dynamic-batch", action="store_true", help="leave the batch size free")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--force", action="store_true", help="write files that exist again")
    args = parser.parse_args()
    everything = [name for family in FAMILIES.values() for name in family]
    names: list[str] = []
    for word in args.models:
        # 'alexnet', 'googlenet' are models and families alike.
        names += everything if word == "all" else [word] if word in everything else FAMILIES.get(word, (word,))
    if args.list:
        print(*dict.fromkeys(names), sep="\n")
        return
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    exporters = list(EXPORTERS) if args.exporter == "both" else [args.exporter]
    for name in dict.fromkeys(names):
        export_one(name, exporters, args.out, args)
        gc.collect()


if __name__ == "__main__":
    main()
