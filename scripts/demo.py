"""Build the page that classifies in the browser, into build/demo/: the networks, the runtime and what lies in demo/.

python scripts/demo.py
"""

import base64
import hashlib
import math
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

import cifar_compare as cc
from cifar_compare import roles
from cifar_compare.study.degrade import SEVERITIES
from cifar_compare.system import keras_defaults, write_json

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "build" / "demo"
TITLES = {"custom_cnn": "Custom CNN", "mobilenet_v2": "MobileNetV2"}
PICTURES = {"truck": "truck_9_sample.png", "cat": "cat_test.jpg", "airplane": "airplane_test.jpg"}
ROUTES = {"on": "preprocessing", "nearest": "bypass-nearest", "bilinear": "bypass-bilinear"}
MANY = 100_000  # weights from which on a layer is stored in 8 bits
VERSION = "2.5.3"  # of the npm packages @litertjs/…, whose integrity, SHA-512 in base64, the registry states
RUNTIME = {
    "core": "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
    "wasm-utils": "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
}
NEEDED = re.compile(r"package/(dist/index\.js|wasm/litert_wasm_(compat_)?internal\.(js|wasm))")


def unpack(package, folder):
    """Put what the page needs of an npm package into a folder; fetch the archive where it is missing, and check it."""
    path = ROOT / "build" / f"litertjs-{package}-{VERSION}.tgz"
    command = ["npm", "pack", "--silent", f"@litertjs/{package}@{VERSION}"]
    path.parent.mkdir(exist_ok=True)
    if not path.exists() and (not shutil.which("npm") or subprocess.run(command, cwd=path.parent).returncode):
        raise SystemExit(
            f"npm, which comes with Node.js, could not fetch {path.name}: put it into {path.parent} yourself"
        )
    if base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode() != RUNTIME[package]:
        raise SystemExit(f"{path} is not the file that was pinned: delete it, and run this again")
    folder.mkdir(exist_ok=True)
    with tarfile.open(path) as archive:
        for member in filter(NEEDED.fullmatch, archive.getnames()):
            name = member.rpartition("/")[2].replace("index", package)
            data = archive.extractfile(member).read()  # in which a browser could not look up the name of a package
            (folder / name).write_bytes(data.replace(b'"@litertjs/wasm-utils"', b'"./wasm-utils.js"'))


@keras_defaults()
def export(model, path):
    """Write a network for one picture at a time, its large layers kept in int8, the others in float16."""
    import keras  # behind cifar_compare, which sets what TensorFlow reads when it is imported

    size, (_, network) = roles.input_size(model), roles.parts(model)
    # The runtime in the browser takes no open batch size, which `cc.export` leaves.
    signature = [keras.InputSpec(dtype="float32", shape=(1, size, size, 3), name="pixels")]
    network.export(str(path), format="litert", verbose=False, input_signature=signature)
    smaller, operations = quantizer.Quantizer(str(path)), qtyping.TFLOperationName
    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    half = qtyping.OpQuantizationConfig(None, weights, qtyping.ComputePrecision.FLOAT, explicit_dequantize=True)
    for operation in (operations.CONV_2D, operations.DEPTHWISE_CONV_2D):
        smaller.update_quantization_recipe(".*", operation, half, algorithm_manager.AlgorithmName.FLOAT_CASTING)
    large = [a.name for a in network.layers if hasattr(a, "kernel") and math.prod(a.kernel.shape) >= MANY]
    smaller.add_weight_only_config(rf"/({'|'.join(large)})(_\d+)?/", operations.CONV_2D, num_bits=8)
    smaller.quantize().export_model(str(path), overwrite=True)


def main(folder=DEMO):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "demo", folder)
    for package in RUNTIME:
        unpack(package, folder / "runtime")
    models, pictures = [], []
    for name, title in TITLES.items():
        export(cc.load_model(name), folder / f"{name}.tflite")
        card = cc.load_card(name)
        threshold = card["out_of_distribution"]["threshold"]
        models.append({"name": name, "title": title, "size": card["input_size"], "threshold": threshold})
    for name, file in PICTURES.items():
        shutil.copy(ROOT / "test_images" / file, folder)
        pictures.append({"name": name, "file": file})
    rows = {row["id"]: row for row in cc.study.read(ROOT / "results" / "low_res_study.csv")}
    rows = {switch: rows[f"mobilenet_v2/published/{route}"] for switch, route in ROUTES.items()}
    study = {switch: {key: row[key] for key in ("n", "resolution", "accuracy")} for switch, row in rows.items()}
    about = {"classes": cc.CLASSES, "models": models, "pictures": pictures, "study": study}
    write_json(folder / "about.json", about | {"noise": SEVERITIES["gaussian_noise"], "jpeg": SEVERITIES["jpeg"]})
    print(
        f"Now run `python -m http.server --directory {os.path.relpath(folder)}`, and open the address that it prints."
    )


if __name__ == "__main__":
    main()
