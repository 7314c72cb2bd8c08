"""The weights go through Git LFS and back, in throw-away repositories with a Git configuration of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_compare.artefacts import NAMES

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = "models/custom_cnn.keras"
LARGEST_POINTER = 1024  # bytes, as Git LFS's specification has it
SEARCHED = os.pathsep.join(filter(None, [os.environ.get("GIT_LFS_BIN"), os.environ.get("PATH")]))


@pytest.fixture
def git(tmp_path):
    """Call Git for its output; it neither sees nor changes the settings of account and system."""
    if not shutil.which("git-lfs", path=SEARCHED):
        pytest.skip("git-lfs is neither on PATH nor in the folder that GIT_LFS_BIN names")
    home = tmp_path / "home"
    home.mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "XDG_"))}
    settings = {"GIT_CONFIG_GLOBAL": str(home / ".gitconfig"), "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(home)}

    def call(folder, *arguments, **variables):
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=clean | settings | {"PATH": SEARCHED} | variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    call(home, "config", "--global", "user.name", "Test")
    call(home, "config", "--global", "user.email", "test@example.org")
    call(home, "config", "--global", "init.defaultBranch", "main")
    return call


def predict(models):
    code = "from cifar_compare.cli import main; raise SystemExit(main())"
    picture = ROOT / "test_images" / "cat_test.jpg"
    call = [sys.executable, "-c", code, "predict", picture, "--model", "custom_cnn"]
    return subprocess.run(call, capture_output=True, text=True, env=os.environ | {"CIFAR_COMPARE_MODELS": str(models)})


def test_weights_move_to_lfs_and_come_back(git, tmp_path):
    original = (ROOT / WEIGHTS).read_bytes()
    work, host, clone = (tmp_path / name for name in ("work", "host.git", "clone"))

    # As this repository is: declared for LFS, yet committed whole. Copied, for the models may be newer than HEAD.
    (work / "models").mkdir(parents=True)
    for path in (".gitattributes", WEIGHTS, "models/custom_cnn.json"):
        shutil.copy(ROOT / path, work / path)
    git(work, "init")
    git(work, "add", ".")
    git(work, "commit", "--message", "whole")
    assert int(git(work, "cat-file", "-s", f"HEAD:{WEIGHTS}")) == len(original)
    assert git(work, "status", "--short") == ""

    # The three lines of docs/weights-and-lfs.md.
    git(work, "lfs", "install")
    assert "filter.lfs.process" in git(work, "config", "--file", tmp_path / "home" / ".gitconfig", "--list")
    os.utime(work / WEIGHTS, (0, 0))  # Git filters a file again only where its times have changed
    assert git(work, "status", "--short") == f" M {WEIGHTS}\n"
    git(work, "add", "--renormalize", "models")
    git(work, "commit", "--message", "pointers")
    pointer = git(work, "cat-file", "-p", f"HEAD:{WEIGHTS}")
    assert pointer.startswith("version https://git-lfs.github.com/spec/")
    assert f"\nsize {len(original)}\n" in pointer
    assert git(work, "status", "--short") == ""
    git(tmp_path, "init", "--bare", host)
    git(work, "push", host.as_uri(), "main")
    assert [path.read_bytes() == original for path in host.glob("lfs/objects/??/??/*")] == [True]

    git(tmp_path, "clone", host.as_uri(), clone, GIT_LFS_SKIP_SMUDGE="1")
    assert (clone / WEIGHTS).read_text() == pointer
    refused = predict(clone / "models")
    assert refused.returncode == 2
    assert refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert f"{clone / WEIGHTS} is a Git LFS pointer" in line
    assert "git lfs pull" in line

    git(clone, "lfs", "pull")
    assert (clone / WEIGHTS).read_bytes() == original
    assert git(clone, "status", "--short") == ""
    answered = predict(clone / "models")
    assert answered.returncode == 0, answered.stderr
    assert "cat_test.jpg" in answered.stdout


@pytest.mark.parametrize("suffix", [".keras", ".test_predictions.npz"])
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_declared_for_lfs_and_committed_whole(name, suffix):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")

    def ask(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    path = f"models/{name}{suffix}"
    assert ask("check-attr", "filter", path) == f"{path}: filter: lfs"
    # A host that stores LFS objects drops this once it has taken the weights over.
    assert int(ask("cat-file", "-s", f":{path}")) > LARGEST_POINTER, f"{path} is tracked as a Git LFS pointer"
