"""Build the page that classifies in the browser, into build/demo/: the networks, the runtime and what lies in demo/.

python scripts/demo.py
"""

import base64
import csv
import hashlib
import json
import math
import shutil
import subprocess
import tarfile
from pathlib import Path

import keras
from ai_edge_quantizer import algorithm_manager, quantizer
from ai_edge_quantizer.qtyping import ComputePrecision, OpQuantizationConfig, TensorDataType, TensorQuantizationConfig
from ai_edge_quantizer.qtyping import TFLOperationName as Operation

import cifar_compare as cc
from cifar_compare import roles
from cifar_compare.study.degrade import SEVERITIES
from cifar_compare.system import keras_defaults

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "build" / "demo"
TITLES = {"custom_cnn": "Custom CNN", "mobilenet_v2": "MobileNetV2"}
PICTURES = {"truck": "truck_9_sample.png", "cat": "cat_test.jpg", "airplane": "airplane_test.jpg"}
MANY = 100_000  # weights of a layer from which on they are stored in 8 bits
# Of each npm package its integrity, as the registry states it, and the files that the page needs, by their new names.
RUNTIME = {
    "@litertjs/core@2.5.3": (
        "sha512-PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        {"dist/index.js": "litert.js"}
        | {f"wasm/litert_wasm_{kind}": f"litert_wasm_{kind}" for kind in ("internal.js", "internal.wasm")}
        | {
            f"wasm/litert_wasm_compat_{kind}": f"litert_wasm_compat_{kind}" for kind in ("internal.js", "internal.wasm")
        },
    ),
    "@litertjs/wasm-utils@2.5.3": (
        "sha512-4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
        {"dist/index.js": "wasm-utils.js"},
    ),
}


def fetch(package, integrity, folder):
    """The path of an npm package's archive in `folder`: fetched where it is missing, and checked."""
    path = folder / (package.strip("@").replace("/", "-").replace("@", "-") + ".tgz")
    if not path.exists():
        if not shutil.which("npm"):
            raise SystemExit(
                f"npm, which comes with Node.js, is needed to fetch {package}: install it, or lay {path} there"
            )
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    if f"sha512-{base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()}" != integrity:
        raise SystemExit(f"{path} is not {package} as it was pinned: delete it, and run this again")
    return path


@keras_defaults()
def export(model, path):
    """Write a network for pictures one by one, large layers in int8, others in float16; it computes in float32."""
    size, (_, network) = roles.input_size(model), roles.parts(model)
    # The runtime in the browser takes no open batch size, which `cc.export` leaves.
    signature = [keras.InputSpec(dtype="float32", shape=(1, size, size, 3), name="pixels")]
    network.export(str(path), format="litert", verbose=False, input_signature=signature)
    half = OpQuantizationConfig(
        weight_tensor_config=TensorQuantizationConfig(num_bits=16, dtype=TensorDataType.FLOAT),
        compute_precision=ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    large = [
        layer.name for layer in network.layers if hasattr(layer, "kernel") and math.prod(layer.kernel.shape) >= MANY
    ]
    smaller = quantizer.Quantizer(str(path))
    for operation in (Operation.CONV_2D, Operation.DEPTHWISE_CONV_2D):
        smaller.update_quantization_recipe(".*", operation, half, algorithm_manager.AlgorithmName.FLOAT_CASTING)
    smaller.add_weight_only_config(rf"/({'|'.join(large)})(_\d+)?/", Operation.CONV_2D, 8)
    smaller.quantize().export_model(str(path), overwrite=True)


def sentences():
    """What the study measured on the published pictures, a sentence for each setting of MobileNetV2's preprocessing."""
    with open(ROOT / "results" / "low_res_study.csv", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    routes = {"on": "preprocessing", "nearest": "bypass-nearest", "bilinear": "bypass-bilinear"}
    rows = {key: rows[f"mobilenet_v2/published/{route}"] for key, route in routes.items()}
    right = {key: f"{100 * float(row['accuracy']):.1f} %" for key, row in rows.items()}
    pictures = (
        f"{int(rows['on']['n']):,} test images shrunk to {rows['on']['resolution']} px and enlarged in sharp blocks"
    )
    on = f"Any picture is shrunk to 32×32 px with smoothing: MobileNetV2 gets {right['on']} of {pictures} right."
    off = (
        "Without its preprocessing MobileNetV2 gets the blocks of enlarged pictures, which no training picture had: of "
        f"{pictures} it gets {{}} right, and {right['on']} with it."
    )
    return {"on": on, "nearest": off.format(right["nearest"]), "bilinear": off.format(right["bilinear"])}


def main():
    shutil.rmtree(DEMO, ignore_errors=True)
    shutil.copytree(ROOT / "demo", DEMO)
    (DEMO / "runtime").mkdir()
    for package, (integrity, files) in RUNTIME.items():
        with tarfile.open(fetch(package, integrity, ROOT / "build" / "npm")) as archive:
            for inside, name in files.items():
                data = archive.extractfile(f"package/{inside}").read()
                # A browser looks up no package names.
                data = data.replace(b'"@litertjs/wasm-utils"', b'"./wasm-utils.js"') if name == "litert.js" else data
                (DEMO / "runtime" / name).write_bytes(data)
    models = []
    for name, title in TITLES.items():
        model, card = cc.load_model(name), cc.load_card(name)
        export(model, DEMO / f"{name}.tflite")
        threshold = card["out_of_distribution"]["threshold"]
        about = {"name": name, "title": title, "file": f"{name}.tflite", "size": card["input_size"]}
        models.append(about | {"threshold": threshold})
    pictures = [{"name": name, "title": name.capitalize(), "file": file} for name, file in PICTURES.items()]
    for picture in pictures:
        shutil.copy(ROOT / "test_images" / picture["file"], DEMO)
    about = {"classes": cc.CLASSES, "models": models, "pictures": pictures, "study": sentences()}
    about |= {"noise": SEVERITIES["gaussian_noise"], "jpeg": SEVERITIES["jpeg"]}
    (DEMO / "about.json").write_text(json.dumps(about, indent=1))
    print(f"Now run `python -m http.server --directory {DEMO.relative_to(ROOT)}`, and open the address that it prints.")


if __name__ == "__main__":
    main()
