"""Checkpoints: save aside, commit by a manifest, verify, restore onto any mesh, fall back to the last good one.

    checkpoints/000120/         the TrainState, written by orbax
    checkpoints/000120.json     the manifest: sha256 of every file, shape and dtype of every leaf, what the host decided

A step exists once its manifest does: it is written last, and renamed into place. A flipped byte in a data file, which
orbax restores without a word, does not pass the checksum.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from common import processes
from common.errors import InputError
from common.state import TrainState

PARTS = ("step", "params", "model_state", "opt_state", "ema")


class Checkpoints:
    """The checkpoints of one run folder. Use as a context manager: what is being saved is finished at its end."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = Path(folder).absolute()
        self.keep = keep
        self.writer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
        self.pending: tuple[int, dict] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self.finish()
        self.writer.close()

    def save(self, step: int, state: TrainState, host: dict[str, Any]) -> None:
        """Starts to save; returns once the state is copied. `host`: JSON of what the host has decided; host["best_step"]
        names the checkpoint that is kept beside the last ones. Raises InputError where the disk refuses."""
        self.finish()
        with disk_errors(self.folder):
            if processes.is_first():  # a step without a manifest, or one that failed its check, is written anew
                self.manifest_path(step).unlink(missing_ok=True)
                for left in (self.path(step), *self.folder.glob(f"{step:06d}.orbax-checkpoint-tmp*")):
                    shutil.rmtree(left, ignore_errors=True)
                self.folder.mkdir(parents=True, exist_ok=True)
            processes.barrier("the folder of a checkpoint")
            tree = {part: getattr(state, part) for part in PARTS}
            if (
                jax.default_backend() == "cpu"
            ):  # there orbax would write from the very buffers that the next step takes over
                tree = jax.tree.map(jnp.copy, tree)
            self.pending = (step, {"step": step, "host": host, "leaves": leaves(tree)})
            self.writer.save(self.path(step), args=ocp.args.PyTreeSave(tree))

    def poll(self) -> None:
        """Commits what was saved as soon as it is written: called now and then, never waits."""
        if self.pending and self.path(self.pending[0]).exists():
            self.finish()

    def finish(self) -> None:
        """Waits for the save in progress, and commits it."""
        if not self.pending:
            return
        (step, manifest), self.pending = self.pending, None
        with disk_errors(self.folder):
            self.writer.wait_until_finished()
            if processes.is_first():
                manifest["files"] = checksums(self.path(step))
                aside = self.folder / f".{step:06d}.json"
                aside.write_text(json.dumps(manifest))
                with aside.open("rb") as file:
                    os.fsync(file.fileno())
                aside.rename(self.manifest_path(step))
                self.prune(manifest["host"].get("best_step"))

    def prune(self, best: int | None) -> None:
        """Keeps the last `keep` checkpoints and the best; removes what an interrupted save or removal left."""
        steps = self.steps()
        kept = {*steps[-self.keep :], best}
        for step in steps:
            if step not in kept:
                self.manifest_path(step).unlink()
        for path in self.folder.iterdir():
            if path.is_dir() and not (path.name.isdigit() and int(path.name) in kept):
                shutil.rmtree(path, ignore_errors=True)

    def steps(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("[0-9]*.json"))

    def path(self, step: int) -> Path:
        return self.folder / f"{step:06d}"

    def manifest_path(self, step: int) -> Path:
        return self.folder / f"{step:06d}.json"

    def manifest(self, step: int) -> dict[str, Any]:
        return json.loads(self.manifest_path(step).read_text())

    def damage(self, step: int) -> str:
        """What is wrong with the files of `step`; '' where every file is as it was saved."""
        try:
            expected, found = self.manifest(step)["files"], checksums(self.path(step))
        except (OSError, ValueError, KeyError) as error:
            return f"its manifest cannot be read ({type(error).__name__})"
        for name, digest in expected.items():
            if found.get(name) != digest:
                return f"file {name} is {'missing' if name not in found else 'not as it was saved'}"
        return ""

    def latest(self) -> int | None:
        """The newest step whose files are as they were saved; a damaged one is said and passed over.

        Of several processes the first one looks, and all take what it found.
        """
        step = processes.agreed(self.newest() if processes.is_first() else 0)
        return step if step >= 0 else None

    def newest(self) -> int:
        """`latest` as this process sees it; -1 for none."""
        for step in reversed(self.steps()):
            damage = self.damage(step)
            if not damage:
                return step
            print(f"warning: checkpoint {self.path(step)}: {damage}; using the one before it", file=sys.stderr)
        if self.steps():
            raise InputError(f"{self.folder}: no checkpoint is whole; start again in a new --workdir")
        return -1

    def best(self) -> int | None:
        """The step of the best score where there is one and it is whole, else the newest."""
        step = self.latest()
        if step is None:
            return None
        if processes.is_first():
            best = self.manifest(step)["host"].get("best_step")
            step = best if best in self.steps() and not self.damage(best) else step
        return processes.agreed(step)

    def restore(self, step: int, abstract: TrainState, parts: tuple[str, ...] = PARTS) -> TrainState:
        """The state saved at `step`, on the shardings of `abstract`; parts that are not asked for are left as they are.

        Raises InputError that names the first leaf that differs, where the checkpoint is of another model.
        """
        wanted = {part: getattr(abstract, part) for part in parts}
        check_leaves(leaves(wanted), self.manifest(step)["leaves"], parts, self.path(step))
        wanted = {part: tree for part, tree in wanted.items() if jax.tree.leaves(tree)}
        args = ocp.checkpoint_utils.construct_restore_args(wanted)
        found = self.writer.restore(
            self.path(step), args=ocp.args.PyTreeRestore(item=wanted, restore_args=args, partial_restore=True)
        )
        return abstract.replace(**found)


def leaves(tree) -> dict[str, list]:
    """'params/Conv_0/kernel' -> [dtype, shape] of every leaf."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): [str(x.dtype), list(x.shape)] for path, x in flat}


def check_leaves(wanted: dict, saved: dict, parts: tuple[str, ...], where: Path) -> None:
    """Raises InputError for the first leaf of `parts` that is in one and not the other, or differs in shape or dtype."""
    saved = {name: leaf for name, leaf in saved.items() if name.split("/")[0] in parts}
    show = lambda leaf: f"{leaf[0]}{leaf[1]}" if leaf else "absent"
    for name in [*wanted, *(n for n in saved if n not in wanted)]:
        if wanted.get(name) != saved.get(name):
            raise InputError(
                f"{where}: a checkpoint of another model: {name} is {show(saved.get(name))} there and "
                f"{show(wanted.get(name))} in this config; use the config that it was trained with"
            )


def checksums(folder: Path) -> dict[str, str]:
    """sha256 of every file under `folder`, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_digest(path) for path in files}


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def disk_errors(folder: Path):
    """Turns what the disk refuses (full, read-only, too large) into one line. TensorStore raises ValueError for it."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0][:200]
        raise InputError(
            f"{folder}: the checkpoint could not be saved ({reason}); the last good one is kept; free some space and start again"
        ) from error
