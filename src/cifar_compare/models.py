"""Build the two networks: raw pixels of any size in, class probabilities out.

Each model is two sub-models in a row: ``entry`` crops and shrinks any picture to 32×32 pixels and, for MobileNetV2,
enlarges those to its working size; ``network`` turns them into probabilities. Preprocessing cannot be forgotten: it is
inside.
"""

import math
import os

import keras
from keras import layers, ops

ENTRY_SIZE = 32  # px: the size of a CIFAR-10 image, and all that either network gets to see
INTERPOLATION = "bicubic"  # leaves a 32×32 image untouched bit for bit, which Lanczos does not

# Mean and variance of the CIFAR-10 training split per channel, in units of pixel values 0..255.
_MEAN = (125.307, 122.950, 113.866)
_VARIANCE = (63.0**2, 62.1**2, 66.7**2)


def build_custom_cnn(seed=0, widths=(128, 384, 384)):
    """Build the CNN trained from scratch: six 3×3 convolutions behind a whitening layer, by default 4.6 M weights.

    The shape is that of airbench (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
    arXiv:2404.00498), with the widths of its larger variant: BatchNorm without scale, GELU, and convolutions that
    start as the identity. `train` fills the whitening layer from the training images.

    Args:
        seed: int, seed of the initial weights.
        widths: three ints, channels of the three blocks; (64, 256, 256), airbench94's, make 1.97 million parameters.

    Returns:
        `keras.Model`: RGB pixels in [0, 255], shape `(n, height, width, 3)`, any height and width, uint8 or float32;
        to probabilities, float32, shape `(n, 10)`.
    """
    draw = keras.random.SeedGenerator(seed)
    pixels = keras.Input((None, None, 3), name="network_pixels")
    x = layers.Normalization(mean=_MEAN, variance=_VARIANCE, name="normalise")(pixels)
    x = layers.Conv2D(24, 2, kernel_initializer=_fan_in(draw), name="whiten")(x)
    x = layers.Activation("gelu", name="whiten_gelu")(x)
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
    x = layers.Dense(10, use_bias=False, kernel_initializer=_fan_in(draw), name="logits")(x)
    network = keras.Model(pixels, layers.Softmax(name="probabilities")(x), name="network")

    # The kernel is set once from the data's statistics and stays; only its bias learns.
    network.get_layer("whiten").kernel.trainable = False
    for layer in network.layers:
        if layer.name.startswith("conv"):
            _start_as_identity(layer)
    return behind_entry(network, ENTRY_SIZE, "custom_cnn")


def build_mobilenet_v2(weights="imagenet", working_size=128, seed=0):
    """Build MobileNetV2 1.0 (Sandler et al. 2018, arXiv:1801.04381) with a new ten-class head.

    The 32×32 pixels of the entry are enlarged to `working_size` inside the model. All BatchNorm layers are frozen
    (`layer.trainable = False`), which in Keras 3 is the only thing that keeps their ImageNet statistics while
    the convolutions around them learn; calling the base with `training=False` does not.

    Args:
        weights: "imagenet", None for random weights, or the path of a weight file without top. For "imagenet" the
            environment variable MOBILENET_V2_WEIGHTS may name a local copy, otherwise Keras downloads the file.
        working_size: int, side in px of the square the network works on.
        seed: int, seed of the head's initial weights.

    Returns:
        `keras.Model` as of `build_custom_cnn`: pixels in [0, 255] of any height and width to probabilities.

    Raises:
        FileNotFoundError: the weight file that was named does not exist.
    """
    if weights == "imagenet":
        weights = os.environ.get("MOBILENET_V2_WEIGHTS") or weights
    if weights not in ("imagenet", None) and not os.path.isfile(weights):
        raise FileNotFoundError(
            f"no weight file at '{weights}' (given by `weights` or MOBILENET_V2_WEIGHTS); "
            "unset it to let Keras download the ImageNet weights"
        )
    pixels = keras.Input((None, None, 3), name="network_pixels")
    base = keras.applications.MobileNetV2(
        input_tensor=layers.Rescaling(1 / 127.5, offset=-1.0, name="normalise")(pixels),
        input_shape=(None, None, 3),  # with this shape Keras always takes the weights of the 224 px network
        include_top=False,
        weights=weights,
    )
    for layer in base.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    x = layers.GlobalAveragePooling2D(name="pool")(base.outputs[0])
    draw = keras.random.SeedGenerator(seed)
    x = layers.Dense(10, kernel_initializer=_fan_in(draw), name="logits")(x)
    network = keras.Model(pixels, layers.Softmax(name="probabilities")(x), name="network")
    return behind_entry(network, working_size, "mobilenet_v2")


def resize(images, size, antialias=True, interpolation=INTERPOLATION):
    """Resize to a square, as both the entry and the training do.

    Args:
        images: float32 tensor `(n, height, width, 3)` in [0, 255]; centre-cropped first where it is not square.
        size: int, side of the result in px.
        antialias: bool, whether to smooth before shrinking; makes no difference to an enlargement but costs time.
        interpolation: str, as of `keras.ops.image.resize`.

    Returns:
        float32 tensor `(n, size, size, 3)` in [0, 255]; the input bit for bit where it has this size already.
    """
    resized = ops.image.resize(
        images, (size, size), interpolation=interpolation, antialias=antialias, crop_to_aspect_ratio=True
    )
    return ops.clip(resized, 0.0, 255.0)  # bicubic overshoots at edges


def working_size(model):
    """Side in px of the square that `model`'s entry hands to its network."""
    return model.get_layer("entry").compute_output_shape((1, ENTRY_SIZE, ENTRY_SIZE, 3))[1]


def multiply_adds(model):
    """Multiply-adds of the convolutions and the dense layer for one picture, entry and activations left out."""
    size = working_size(model)
    network = model.get_layer("network")
    counted = [layer for layer in network.layers if hasattr(layer, "kernel")]
    shapes = keras.Model(network.inputs, [layer.output for layer in counted]).compute_output_shape((1, size, size, 3))
    # Every weight of a kernel is used once at each place of the output (shape (1, height, width, c), or (1, c)).
    return sum(
        math.prod(layer.kernel.shape) * math.prod(shape[1:-1]) for layer, shape in zip(counted, shapes, strict=True)
    )


def behind_entry(network, working_size, name):
    """Put an entry before a network of pixels in [0, 255], (n, h, w, 3): the models here are all made so."""
    raw = keras.Input((None, None, 3), name="entry_pixels")
    seen = resize(raw, ENTRY_SIZE)
    if working_size != ENTRY_SIZE:
        seen = resize(seen, working_size, antialias=False)
    entry = keras.Model(raw, seen, name="entry")
    pixels = keras.Input((None, None, 3), name="pixels")
    return keras.Model(pixels, network(entry(pixels)), name=name)


def _fan_in(draw):
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform", seed=draw)


def _start_as_identity(convolution):
    """Let the first output channels of a 3×3 convolution pass the input through (Zagoruyko & Komodakis 2017)."""
    kernel = ops.convert_to_numpy(convolution.kernel).copy()
    shared = min(kernel.shape[2:])
    kernel[:, :, :, :shared] = 0.0
    kernel[1, 1, range(shared), range(shared)] = 1.0
    convolution.kernel.assign(kernel)
