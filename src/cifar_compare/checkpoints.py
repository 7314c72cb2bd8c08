"""Keep the state of a training in a folder, so that it can go on, and refuse to mix one training up with another."""

import hashlib
import io
import json
from pathlib import Path

import filelock
import numpy as np

from .system import write, write_json


class TrainingError(RuntimeError):
    """A training that cannot start, go on or resume; the message says what to do."""


class Checkpoint:
    """The checkpoint of one training; a context in which no other training can use its folder.

    Args:
        folder: where it is kept; made where it is missing.
        identity: dict of what the training depends on, as it comes back from JSON; see `identity_of`.
        weights: list of `keras.Variable`, the network's, by which a half-trained one is known again.
        parts: dict of lists of `keras.Variable`: all that is saved, by name.

    Raises:
        TrainingError: another training is using the folder.
    """

    def __init__(self, folder, identity, weights, parts):
        self.folder, self.identity, self.weights, self.parts = Path(folder), identity, weights, parts
        self.path = self.folder / "checkpoint.npz"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = filelock.FileLock(self.folder / "lock")

    def __enter__(self):
        try:
            self.lock.acquire(timeout=0)
        except filelock.Timeout:
            raise TrainingError(
                f"another training is using {self.folder.absolute()}; wait for it, or name another `folder`"
            ) from None
        return self

    def __exit__(self, *_):
        self.lock.release()

    def save(self, history):
        """Write state and history, each in one step."""
        arrays = {f"{part}{i:04}": v.numpy() for part, variables in self.parts.items() for i, v in enumerate(variables)}
        content = io.BytesIO()
        np.savez(content, state=json.dumps({"identity": self.identity, "history": history}), **arrays)
        write(self.path, content.getvalue())
        write_json(self.folder / "history.json", history)

    def restore(self):
        """Put the saved state back and return its history; None where nothing was saved.

        Raises:
            TrainingError: what is saved cannot be read, or belongs to another training; the message names what differs.
        """
        if not self.path.exists():
            return None
        where = self.path.absolute()
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            state = json.loads(str(arrays.pop("state")))
            identity, history = state["identity"], state["history"]
        except Exception as error:
            raise TrainingError(f"cannot read the checkpoint {where} ({error}); delete it to start afresh") from error
        differs = changes(identity, self.identity)
        # A network that this very training has left at its checkpoint may go on from there.
        if differs == ["initial weights"] and self._left_here(arrays):
            self.identity, differs = identity, []
        if differs:
            raise TrainingError(
                f"{where} belongs to another training: {'; '.join(differs)}. "
                "Give what it was begun with, name another `folder`, or delete it to start afresh"
            )
        for part, variables in self.parts.items():
            for i, variable in enumerate(variables):
                variable.assign(arrays[f"{part}{i:04}"])
        return history

    def _left_here(self, arrays):
        saved = {id(v): arrays[f"{part}{i:04}"] for part, vs in self.parts.items() for i, v in enumerate(vs)}
        return all(np.array_equal(v.numpy(), saved[id(v)]) for v in self.weights)


def identity_of(network, recipe, data):
    """What a training depends on: recipe, the network's configuration and weights, and the arrays it learns from.

    Args:
        network: `keras.Model`.
        recipe: dict, as of `describe`; what it expects is left out.
        data: dict of arrays by what they are called.
    """
    weights = digest(*(v.numpy() for v in network.weights))
    arrays = {what: digest(array) for what, array in data.items()}
    recipe = {key: value for key, value in recipe.items() if not key.startswith("expected_")}
    return {"recipe": recipe, "network": _configuration(network), "initial weights": weights, **arrays}


def digest(*arrays):
    """Hex SHA-256 of arrays, their shapes and dtypes."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def changes(old, new, name="", most=6):
    """What differs between two values as of JSON, in words: 'recipe.seed was 0, is 1'. At most `most`."""
    if isinstance(old, dict) and isinstance(new, dict):
        both = [(old.get(key), new.get(key), f"{name}.{key}" if name else key) for key in dict.fromkeys([*old, *new])]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        both = [(a, b, f"{name}[{i}]") for i, (a, b) in enumerate(zip(old, new, strict=True))]
    elif old == new:
        return []
    else:
        short = all(len(str(value)) <= 40 for value in (old, new))
        return [f"{name} was {old}, is {new}" if short else name]
    return [word for a, b, inner in both for word in changes(a, b, inner, most)][:most]


def _configuration(network):
    """The layers of a network and how they are joined, without the names, which Keras numbers through a session."""
    layers = json.loads(network.to_json())["config"]["layers"]
    places = {name: f"{i} {kind}" for i, (name, kind) in enumerate(dict(_names(layers)).items())}
    return {places[layer["config"]["name"]]: _nameless(layer, places) for layer in layers}


def _names(value):
    """Yield name and class of each layer in a model's configuration, those of models inside it included."""
    config = value.get("config") if isinstance(value, dict) else None
    if isinstance(config, dict) and "name" in config and ("trainable" in config or value["class_name"] == "InputLayer"):
        yield config["name"], value["class_name"]
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _names(each)


def _nameless(value, places):
    if isinstance(value, dict):
        # What an initializer makes is compared itself; Keras's numbers of objects and random generators mean nothing.
        kept = {k: v for k, v in value.items() if k != "shared_object_id" and not k.endswith("_initializer")}
        if value.get("class_name") == "SeedGenerator":
            kept["config"] = value["config"]["seed"]
        return {key: _nameless(each, places) for key, each in kept.items()}
    if isinstance(value, list):
        return [_nameless(each, places) for each in value]
    return places.get(value, value) if isinstance(value, str) else value
