"""Build the two networks, or put one of your own where they are: raw pixels of any size in, class probabilities out.

Each model is two sub-models in a row. The preprocessing crops and shrinks any picture to 32×32 pixels and, for
MobileNetV2, enlarges those to its input resolution; the network turns them into probabilities. Preprocessing cannot be
forgotten: it is inside.
"""

import os
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from .roles import is_softmax
from .system import keras_defaults, path_from, printable

IMAGE_SIZE = 32  # px: the side of a CIFAR-10 image, and all that either network gets to see
INTERPOLATION = "bicubic"  # leaves a 32×32 image untouched bit for bit, which Lanczos does not

# Mean and variance of the CIFAR-10 training split per channel, in units of pixel values 0..255.
_MEAN = (125.307, 122.950, 113.866)
_VARIANCE = (63.0**2, 62.1**2, 66.7**2)


@keras_defaults()
def build_custom_cnn(seed=0, widths=(128, 384, 384), classes=10, whitened=True):
    """Build the CNN trained from scratch: six 3×3 convolutions behind a whitening layer, by default 4.6 M weights.

    The shape is that of airbench (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
    arXiv:2404.00498), with the widths of its larger variant: BatchNorm without scale, GELU, and convolutions that
    start as the identity. `train` fills the whitening layer from the training images.

    Args:
        seed: int, seed of the initial weights.
        widths: three ints, channels of the three blocks; (64, 256, 256), airbench94's, make 1.97 million parameters.
        classes: int, number of classes.
        whitened: bool, whether the first layer whitens the training images and stays, or starts at random and learns.
            Whitening makes faint detail as strong as the rest, noise included.

    Returns:
        `keras.Model`: RGB pixels in [0, 255], shape `(n, height, width, 3)`, any height and width, uint8 or float32;
        to probabilities, float32, shape `(n, classes)`.
    """
    draw = keras.random.SeedGenerator(seed)
    pixels = keras.Input((None, None, 3), name="network_pixels")
    x = layers.Normalization(mean=_MEAN, variance=_VARIANCE, name="normalise")(pixels)
    first = "whiten" if whitened else "first"
    x = layers.Conv2D(24, 2, kernel_initializer=_fan_in(draw), name=first)(x)
    x = layers.Activation("gelu", name=f"{first}_gelu")(x)
    for block, width in enumerate(widths, start=1):
        for half in "ab":
            x = layers.Conv2D(
                width,
                3,
                padding="same",
                use_bias=False,
                kernel_initializer=_fan_in(draw),
                name=f"conv{block}{half}",
            )(x)
            if half == "a":
                x = layers.MaxPooling2D(name=f"pool{block}")(x)
            x = layers.BatchNormalization(scale=False, momentum=0.8, name=f"norm{block}{half}")(x)
            x = layers.Activation("gelu", name=f"gelu{block}{half}")(x)
    x = layers.GlobalMaxPooling2D(name="pool")(x)
    # Nothing normalises behind the last layer; a ninth keeps its first steps small (as in airbench94).
    x = layers.Rescaling(1 / 9, name="shrink")(x)
    x = layers.Dense(classes, use_bias=False, kernel_initializer=_fan_in(draw), name="logits")(x)
    network = keras.Model(pixels, layers.Softmax(name="probabilities")(x), name="network")

    # A whitening kernel is set once from the data's statistics and stays; only its bias learns.
    network.get_layer(first).kernel.trainable = not whitened
    for layer in network.layers:
        if layer.name.startswith("conv"):
            _start_as_identity(layer)
    return _behind_preprocessing(network, IMAGE_SIZE, "custom_cnn")


@keras_defaults()
def build_mobilenet_v2(weights="imagenet", input_size=128, seed=0, classes=10, frozen_norms=True):
    """Build MobileNetV2 1.0 (Sandler et al. 2018, arXiv:1801.04381) with a new ten-class head.

    The 32×32 pixels of the preprocessing are enlarged to `input_size` inside the model. By default all BatchNorm layers
    are frozen (`layer.trainable = False`), which in Keras 3 is the only thing that keeps their ImageNet statistics
    while the convolutions around them learn; calling the base with `training=False` does not.

    Args:
        weights: "imagenet", None for random weights, or the path of a weight file without top. For "imagenet" the
            environment variable MOBILENET_V2_WEIGHTS may name a local copy, otherwise Keras downloads the file.
        input_size: int, px: input resolution of the network, the side of the square it gets.
        seed: int, seed of the initial weights: of the head, and where `weights` is None of everything.
        classes: int, number of classes.
        frozen_norms: bool, whether the BatchNorm layers stay as they are, or learn with the rest.

    Returns:
        `keras.Model` as of `build_custom_cnn`: pixels in [0, 255] of any height and width to probabilities.

    Raises:
        FileNotFoundError: the weight file that was named does not exist.
        OSError: the ImageNet weights cannot be downloaded.
    """
    if weights == "imagenet":
        weights = path_from("MOBILENET_V2_WEIGHTS") or weights
    if weights not in ("imagenet", None):
        weights = str(Path(weights).expanduser())
        if not os.path.isfile(weights):
            raise FileNotFoundError(
                f"no weight file at '{os.path.abspath(weights)}' (given by `weights` or MOBILENET_V2_WEIGHTS); "
                "unset it to let Keras download the ImageNet weights"
            )
    if weights is None:
        keras.utils.set_random_seed(seed)
    pixels = keras.Input((None, None, 3), name="network_pixels")
    scaled = layers.Rescaling(1 / 127.5, offset=-1.0, name="normalise")(pixels)
    shape = None, None, 3  # with which Keras always takes the weights of the 224 px network
    try:
        base = keras.applications.MobileNetV2(
            input_tensor=scaled, input_shape=shape, include_top=False, weights=weights
        )
    except Exception as error:
        if weights != "imagenet" or type(error) is not Exception:  # which Keras raises where a download fails
            raise
        told = "download the file of that name and name it in MOBILENET_V2_WEIGHTS"
        raise OSError(f"the ImageNet weights cannot be downloaded ({printable(str(error), 200)}): {told}") from None
    for layer in base.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = not frozen_norms
    x = layers.GlobalAveragePooling2D(name="pool")(base.outputs[0])
    draw = keras.random.SeedGenerator(seed)
    x = layers.Dense(classes, kernel_initializer=_fan_in(draw), name="logits")(x)
    network = keras.Model(pixels, layers.Softmax(name="probabilities")(x), name="network")
    return _behind_preprocessing(network, input_size, "mobilenet_v2")


@keras_defaults()
def with_preprocessing(network, input_size=None, name=None):
    """Put a network of your own behind the preprocessing that the models here have, so that all helpers take it.

    The network is copied with its weights, and is not changed. A last Dense layer with a softmax inside becomes a
    linear one and a Softmax; a network that ends in logits gets a Softmax.

    Args:
        network: `keras.Sequential` or functional `keras.Model`: RGB pixels in [0, 255], float32
            `(n, height, width, 3)`, to logits or probabilities `(n, classes)`. Scaling the pixels is its own business.
        input_size: int, px: input resolution; by default what the network's input has.
        name: str, name of the model; by default the network's.

    Returns:
        `keras.Model` as of `build_custom_cnn`: pixels of any height and width to probabilities, float32.

    Raises:
        ValueError: the network is subclassed, takes or gives something else, or the input resolution is missing.
    """
    if not isinstance(network, keras.Model) or not getattr(network, "inputs", None):
        given = f"got {type(network).__name__} {getattr(network, 'name', '')}".strip()
        raise ValueError(f"{given}, expected a built keras.Sequential or functional keras.Model")
    takes, gives = [tensor.shape for tensor in network.inputs], [tensor.shape for tensor in network.outputs]
    if len(takes) != 1 or len(takes[0]) != 4 or takes[0][3] != 3 or len(gives) != 1 or len(gives[0]) != 2:
        given = f"network '{network.name}' takes {takes} and gives {gives}"
        raise ValueError(f"{given}, expected (n, height, width, 3) and (n, classes)")
    size = input_size or takes[0][1]
    if not isinstance(size, int) or size < 1 or set(takes[0][1:3]) - {size, None}:
        given = f"network '{network.name}' takes {takes[0][1:3]} px and input_size is {input_size}"
        raise ValueError(f"{given}, expected a square of a size that both agree on: give `input_size`")
    return _behind_preprocessing(_ending_in_softmax(network), size, name or network.name)


def resize(images, size, antialias=True, interpolation=INTERPOLATION):
    """Resize to a square, as both the preprocessing and the training do.

    Args:
        images: float32 tensor `(n, height, width, 3)` in [0, 255]; centre-cropped first where it is not square.
        size: int, side of the result in px.
        antialias: bool, whether to smooth before shrinking; makes no difference to an enlargement but costs time.
        interpolation: str, as of `keras.ops.image.resize`.

    Returns:
        float32 tensor `(n, size, size, 3)` in [0, 255]; the input bit for bit where it has this size already.
    """
    resized = ops.image.resize(
        images,
        (size, size),
        interpolation=interpolation,
        antialias=antialias,
        crop_to_aspect_ratio=True,
        data_format="channels_last",
    )
    return ops.clip(resized, 0.0, 255.0)  # bicubic overshoots at edges


def whiten(network, images):
    """Fill the custom CNN's first layer: principal axes of all 2×2 patches, to unit variance, and their negatives.

    Args:
        network: of `build_custom_cnn`; any other is left as it is.
        images: uint8 or float (n, 32, 32, 3) in [0, 255].
    """
    layer = next((layer for layer in network.layers if layer.name == "whiten" and not layer.kernel.trainable), None)
    if layer is None:
        return
    size, _, channels, filters = layer.kernel.shape
    width = size * size * channels
    total, count = np.zeros((width, width)), 0
    for start in range(0, len(images), 1000):
        part = ops.convert_to_numpy(network.get_layer("normalise")(images[start : start + 1000].astype("float32")))
        patches = np.lib.stride_tricks.sliding_window_view(part, (size, size), axis=(1, 2))
        patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, width).astype("float64")
        total += patches.T @ patches
        count += len(patches)
    variances, axes = np.linalg.eigh(total / count)
    kernel = (axes / np.sqrt(variances + 5e-4)).reshape(size, size, channels, width)
    layer.kernel.assign(np.concatenate([kernel, -kernel], axis=-1)[..., -filters:])
    layer.bias.assign(np.zeros(filters))


def _behind_preprocessing(network, size, name):
    raw = keras.Input((None, None, 3), name="preprocessing_pixels")
    seen = resize(raw, IMAGE_SIZE)
    if size != IMAGE_SIZE:
        seen = resize(seen, size, antialias=False)
    preprocessing = keras.Model(raw, seen, name="preprocessing")
    pixels = keras.Input((None, None, 3), name="pixels")
    return keras.Model(pixels, network(preprocessing(pixels)), name=name)


def _ending_in_softmax(network):
    """A copy of a network, its weights included, that ends in a linear Dense layer and a Softmax where that can be."""
    last = network.layers[-1]
    softmax, linear = keras.activations.softmax, keras.activations.linear
    activation = getattr(last, "activation", None) if isinstance(last, layers.Dense | layers.Activation) else None
    if isinstance(activation, layers.Softmax):
        activation = softmax
    if activation not in (None, softmax, linear):
        raise ValueError(
            f"network '{network.name}' ends in {last.name} with {activation.__name__}, expected softmax or logits"
        )

    def call(layer, *inputs, **options):
        if layer.name == last.name and isinstance(layer, layers.Dense) and activation is softmax:
            layer = layers.Dense.from_config(layer.get_config() | {"activation": "linear"})
        made = layer(*inputs, **options)
        ends = layer.name == last.name and not is_softmax(layer) and activation is not None
        return layers.Softmax(name="probabilities", dtype="float32")(made) if ends else made

    functional = keras.Model(network.inputs, network.outputs, name="network")
    copy = keras.models.clone_model(functional, call_function=call)
    copy.set_weights(network.get_weights())
    return copy


def _fan_in(draw):
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform", seed=draw)


def _start_as_identity(convolution):
    """Let the first output channels of a 3×3 convolution pass the input through (Zagoruyko & Komodakis 2017)."""
    kernel = ops.convert_to_numpy(convolution.kernel).copy()
    shared = min(kernel.shape[2:])
    kernel[:, :, :, :shared] = 0.0
    kernel[1, 1, range(shared), range(shared)] = 1.0
    convolution.kernel.assign(kernel)
