"""Export Keras applications, with seeded random weights, by Keras 3's own ``model.export(format="onnx")``.

    python benchmarks/export_keras.py --out exports --models MobileNetV2 ConvNeXtTiny

Needs an environment with tensorflow-cpu, keras 3, tf2onnx and onnx. The files are called ``MODEL.keras.onnx``, with a
dynamic batch and NHWC images of the size that each application has by default. No weights are downloaded. As with
PyTorch's (export_torchvision.py) every layer is scaled and centred on a few images, so that the outputs depend on the
image. Two operators of ConvNeXt that tf2onnx does not convert (grouped Conv, Erfc) are spelled in ones that it does.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

LARGE = {"Xception", "InceptionV3", "InceptionResNetV2"}
Call = Callable[..., tf.Tensor]
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
    """Give every layer that has weights lively ones, in the order of the forward pass."""
    rng = np.random.default_rng(0)
    calls = [(layer, layer.call) for layer in model.layers if layer.weights]
    for layer, call in calls:
        layer.call = _tamed(layer, call, rng)
    model(batch, training=False)
    for layer, call in calls:
        layer.call = call


def _tamed(layer: keras.Layer, call: Call, rng: np.random.Generator) -> Call:
    """The layer's function, which on its way sets the layer's weights."""

    def tame(values: tf.Tensor, *args: object, **options: object) -> tf.Tensor:
        if type(layer).__name__ == "LayerScale":  # 1e-6 at first: nothing of the branch would be seen
            layer.set_weights([rng.uniform(0.3, 1.0, w.shape) for w in layer.get_weights()])
        elif isinstance(layer, keras.layers.BatchNormalization):
            _normalise(layer, values.numpy(), rng)
        elif hasattr(layer, "activation") and min([*values.shape[1:-1]] or [2]) > 1:
            activation, layer.activation = layer.activation, keras.activations.linear
            _scale(layer, call(values, *args, **options).numpy(), rng)
            layer.activation = activation
        return call(values, *args, **options)

    return tame


def _normalise(layer: keras.Layer, values: np.ndarray, rng: np.random.Generator) -> None:
    """The statistics of the batch, and an affine part that is something."""
    axes, channels = tuple(range(values.ndim - 1)), values.shape[-1]
    gamma = [rng.uniform(0.7, 1.3, channels)] if layer.scale else []
    beta = [rng.normal(0, 0.1, channels)] if layer.center else []
    layer.set_weights([*gamma, *beta, values.mean(axes), values.var(axes) + 1e-6])


def _scale(layer: keras.Layer, made: np.ndarray, rng: np.random.Generator) -> None:
    """Spread 1, and mean 0 where there is a bias; of a separable Conv the last kernel is scaled."""
    weights = layer.get_weights()
    kernels, bias = (weights[:-1], weights[-1:]) if layer.use_bias else (weights, [])
    mean = made.mean(tuple(range(made.ndim - 1))) * len(bias)
    scale = 1 / max(float((made - mean).std()), 1e-12)
    shifted = [(value - mean) * scale + 0.1 * rng.standard_normal(value.shape) for value in bias]
    layer.set_weights([*kernels[:-1], kernels[-1] * scale, *shifted])


def depthwise_conv(
    inputs: tf.Tensor, kernel: tf.Tensor, strides: object = 1, padding: str = "valid", *args: object
) -> tf.Tensor:
    """Keras compiles a grouped Conv by XLA, which tf2onnx does not convert; one group per channel is depthwise."""
    channels = inputs.shape[-1]
    if kernel.shape[-2] != 1 or channels == 1 or kernel.shape[-1] != channels:
        return keras_conv(inputs, kernel, strides, padding, *args)
    steps = [strides] * 2 if isinstance(strides, int) else list(strides)
    return tf.nn.depthwise_conv2d(inputs, tf.transpose(kernel, [0, 1, 3, 2]), [1, *steps, 1], padding.upper())


def gelu(values: tf.Tensor, approximate: bool = False) -> tf.Tensor:
    """TensorFlow's own uses Erfc, of which ONNX knows nothing."""
    return 0.5 * values * (1.0 + tf.math.erf(values / tf.sqrt(tf.cast(2.0, values.dtype))))


keras_conv = keras.src.backend.nn.conv
keras.src.backend.nn.conv = depthwise_conv
tf.nn.gelu = gelu


def export(name: str, out: Path) -> None:
    keras.utils.set_random_seed(0)
    # Logits: the softmax of random weights is nearly constant.
    shape = (299, 299, 3) if name in LARGE else (224, 224, 3)
    model = getattr(keras.applications, name)(weights=None, classifier_activation=None, input_shape=shape)
    enliven(model, images(4, shape, 0))
    path = out / f"{name}.keras.onnx"
    model.export(str(path), format="onnx", verbose=False)
    scores = model.predict(images(4, shape, 1), verbose=0)
    varied = scores.std(axis=0).mean() / scores.std()
    print(f"{path.name:32} {path.stat().st_size / 1e6:8.1f} MB  variation {varied:.2f}")


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
