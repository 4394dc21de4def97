"""Export Keras applications, with seeded random weights, by Keras 3's own ``model.export(format="onnx")``.

    python benchmarks/export_keras.py --out exports --models MobileNetV2 ConvNeXtTiny

Needs an environment with tensorflow-cpu, keras 3, tf2onnx and onnx. The files are called ``MODEL.keras.onnx``, with a
dynamic batch and NHWC images of the size that each application has by default. No weights are downloaded. As with
PyTorch's (export_torchvision.py) every layer is scaled and centred on a few images, so that the outputs depend on the image.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

NAMES = (
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "DenseNet121", "EfficientNetB0"),
    *("EfficientNetV2B0", "Xception", "InceptionV3", "InceptionResNetV2", "NASNetMobile", "ResNet50", "ResNet50V2"),
    *("VGG16", "ConvNeXtTiny"),
)


def images(count: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """(count, H, W, C) images of 0..255 or so: noise at several scales, each with its own contrast and tint."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    found = np.zeros((count, *shape), np.float32)
    for cell in (1, 3, 8, 32):
        noise = rng.standard_normal((count, -(-height // cell), -(-width // cell), channels))
        found += noise.repeat(cell, 1).repeat(cell, 2)[:, :height, :width]
    contrast = rng.uniform(0.3, 1.3, (count, 1, 1, 1))
    tint = 0.5 * rng.standard_normal((count, 1, 1, channels))
    return (128 + 40 * (found * contrast + tint)).astype(np.float32)


def enliven(model: keras.Model, batch: np.ndarray) -> None:
    """Scale and centre every layer that has weights, in the order of the forward pass."""
    rng = np.random.default_rng(0)
    calls = []
    for layer in model.layers:
        if not layer.weights or isinstance(layer, keras.layers.Normalization) or not hasattr(layer, "call"):
            continue
        calls.append((layer, layer.call))
        layer.call = _tamed(layer, layer.call, rng)
    model(batch, training=False)
    for layer, call in calls:
        layer.call = call


def _tamed(layer: keras.Layer, call: object, rng: np.random.Generator) -> object:
    def tame(values: tf.Tensor, *args: object, **options: object) -> tf.Tensor:
        weights = layer.get_weights()
        if isinstance(layer, keras.layers.BatchNormalization):
            axes = tuple(range(values.ndim - 1))
            given = values.numpy()
            own = [w for w in (("gamma", layer.scale), ("beta", layer.center)) if w[1]]
            affine = [
                rng.uniform(0.7, 1.3, given.shape[-1]) if n == "gamma" else rng.normal(0, 0.1, given.shape[-1])
                for n, _ in own
            ]
            layer.set_weights([*affine, given.mean(axes), given.var(axes) + 1e-6])
        elif hasattr(layer, "activation") and min(values.shape[1:-1] or (2,)) > 1:
            activation, layer.activation = layer.activation, keras.activations.linear
            made = call(values, *args, **options).numpy()
            layer.activation = activation
            axes = tuple(range(made.ndim - 1))
            centred = made - made.mean(axes) if layer.use_bias else made
            scale = 1 / max(float(centred.std()), 1e-12)
            kernels = weights[:-1] if layer.use_bias else weights
            bias = (
                [weights[-1] * scale - made.mean(axes) * scale + 0.1 * rng.standard_normal(made.shape[-1])]
                if layer.use_bias
                else []
            )
            first = kernels[:-1] if len(kernels) > 1 else []  # of a separable Conv the last kernel is scaled
            layer.set_weights([*first, kernels[-1] * scale, *bias])
        return call(values, *args, **options)

    return tame


def export(name: str, out: Path) -> None:
    keras.utils.set_random_seed(0)
    # Logits: the softmax of random weights is nearly constant.
    model = getattr(keras.applications, name)(weights=None, classifier_activation=None)
    shape = tuple(model.input_shape[1:])
    enliven(model, images(4, shape, 0))
    path = out / f"{name}.keras.onnx"
    model.export(str(path), format="onnx", verbose=False)
    scores = model.predict(images(4, shape, 1), verbose=0)
    print(
        f"{path.name:32} {path.stat().st_size / 1e6:8.1f} MB  variation {scores.std(axis=0).mean() / scores.std():.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("exports"), help="folder for the files")
    parser.add_argument("--list", action="store_true", help="only print the models' names")
    parser.add_argument("--models", nargs="+", default=["all"], help="applications, or 'all' (the default)")
    args = parser.parse_args()
    names = NAMES if "all" in args.models else args.models
    if args.list:
        print(*names, sep="\n")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        export(name, args.out)


if __name__ == "__main__":
    main()
