"""TFDS data sets by name, read and written without TensorFlow.

Files are array_record, which needs no TensorFlow; tfrecord, the default of TFDS, does.
"""

import difflib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from common.errors import InputError
from common.task import Source

FORM = "write tfds:NAME, tfds:NAME:1.0.0 or tfds:NAME/CONFIG"


def open_set(name: str, data_dir: str | Path, *, patience: float = 60.0) -> Any:
    """The builder of the TFDS data set `name` under `data_dir`; its `info.splits` are what it has.

    A public set that is not there yet is downloaded and prepared first, in a child process that is ended after
    `patience` seconds without progress. Raises InputError where the name is unknown, the set is in another file format,
    or it cannot be downloaded.
    """
    key = f"config.data.source=tfds:{name}"
    builder = _prepared(name, data_dir)
    if builder is None:
        _check_public(name, data_dir, key)
        _download(name, Path(data_dir), patience, key)
        builder = _prepared(name, data_dir)
        if builder is None:
            raise InputError(f"{key}: the download left no data set in {data_dir}; delete what is there and try again")
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        found = builder.info.file_format.value
        raise InputError(f"{key}: {builder.data_dir} holds {found} files; prepare it with file_format='array_record'")
    return builder


def tfds_source(name: str, split: str, data_dir: str | Path, *, patience: float = 60.0) -> Source:
    """The split ('train', 'train[:90%]', ...) of a TFDS data set, read without TensorFlow: examples are dicts of arrays.

    Raises InputError as `open_set` does, and for an unknown split.
    """
    builder, key = open_set(name, data_dir, patience=patience), f"config.data.source=tfds:{name}"
    if re.split(r"[\[+]", split)[0] not in builder.info.splits:
        known = ", ".join(sorted(builder.info.splits))
        raise InputError(f"{key}: it has no split {split!r}; known: {known}, and parts of them like 'train[:90%]'")
    try:
        return builder.as_data_source(split=split)
    except (ValueError, AssertionError) as error:
        raise InputError(f"{key}: split {split!r} cannot be read ({_line(error)}); write 'train[:90%]'") from error


def _prepared(name: str, data_dir: str | Path) -> Any:
    """The builder of a set that is on disk, or None."""
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=str(data_dir))
    except tfds.core.DatasetNotFoundError:
        return None
    except (ValueError, AssertionError) as error:
        raise InputError(f"config.data.source=tfds:{name}: {_line(error)}; {FORM}") from error


def _check_public(name: str, data_dir: str | Path, key: str) -> None:
    """Raises InputError where TFDS has no set of this name that works without TensorFlow."""
    try:
        tfds.builder(name, data_dir=str(data_dir), file_format="array_record")
    except tfds.core.DatasetNotFoundError:
        near = difflib.get_close_matches(
            re.split(r"[:/]", name)[0], tfds.list_builders(with_community_datasets=False), n=1
        )
        hint = f"did you mean {near[0]!r}?" if near else "`python -m experiments.prepare` makes one from your own files"
        raise InputError(f"{key}: TFDS has no such set, and {data_dir} holds none; {hint}") from None
    except ModuleNotFoundError as error:
        cure = "prepare it elsewhere with file_format='array_record'"
        raise InputError(f"{key}: its builder needs {error.name}; {cure}") from error
    except (ValueError, AssertionError) as error:
        raise InputError(f"{key}: {_line(error)}; {FORM}") from error


# TFDS retries a download that cannot succeed for many minutes, hence a process that can be ended. Some builders repair
# a few images with TensorFlow (oxford_iiit_pet: twelve JPEGs): Pillow stands in for the functions they call.
PREPARE = """
import importlib.util, io, sys, types
import numpy as np, PIL.Image
import tensorflow_datasets as tfds

def decode_image(data, channels=0):
    image = PIL.Image.open(io.BytesIO(data))
    return np.asarray(image.convert("RGB") if image.mode not in ("RGB", "RGBA", "L") else image)

def encode_jpeg(array):
    file = io.BytesIO()
    PIL.Image.fromarray(np.asarray(array)).save(file, "JPEG", quality=95)
    return types.SimpleNamespace(numpy=file.getvalue)

name, data_dir = sys.argv[1:]
builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
module = sys.modules[type(builder).__module__]
if hasattr(module, "tf") and importlib.util.find_spec("tensorflow") is None:
    image = types.SimpleNamespace(decode_image=decode_image)
    module.tf = types.SimpleNamespace(image=image, io=types.SimpleNamespace(encode_jpeg=encode_jpeg), shape=np.shape)
builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
"""


def _download(name: str, data_dir: Path, patience: float, key: str) -> None:
    """Downloads and prepares `name`; raises InputError where that fails or makes no progress for `patience` seconds."""
    print(f"tfds:{name} is not in {data_dir}: downloading and preparing it", file=sys.stderr)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{key}: cannot write to {data_dir} ({error.strerror}); set config.data.root") from error
    log = data_dir / f"download-{re.sub(r'[^a-zA-Z0-9_.-]', '_', name)}.log"
    with log.open("wb") as output:
        child = subprocess.Popen([sys.executable, "-c", PREPARE, name, str(data_dir)], stdout=output, stderr=output)
    cure = f"check the network, or prepare the set elsewhere and copy it to {data_dir} (log: {log})"
    try:
        seen, since = -1, time.monotonic()
        while child.poll() is None:
            time.sleep(min(0.5, patience / 4))
            size = sum(p.stat().st_size for p in _files(data_dir) if p != log)
            if size != seen:
                seen, since = size, time.monotonic()
            elif time.monotonic() - since > patience:
                raise InputError(f"{key}: cannot be downloaded, nothing arrived for {patience:.0f} s; {cure}")
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1].strip() if lines else "no message"
        raise InputError(f"{key}: cannot be downloaded or prepared ({last}); {cure}")
    log.unlink()


def _files(folder: Path) -> list[Path]:
    """Files under `folder`; those that vanish meanwhile (renamed when complete) are left out."""
    return [path for path in folder.rglob("*") if path.is_file()]


def _line(error: BaseException) -> str:
    """The first line of a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def prepare(
    splits: Mapping[str, Source], name: str, data_dir: str | Path, *, version: str = "1.0.0", about: str = ""
) -> Path:
    """Writes sources as the TFDS data set `name` (array_record) under `data_dir`, and returns its folder.

    uint8 arrays [H, W] and [H, W, 1|3|4] become PNG, other arrays zlib-compressed tensors with free sizes except the
    last axis, strings text: reading gives equal arrays back ([H, W] as [H, W, 1]). Raises InputError where the name is
    no TFDS name, nothing is to be written, or the set is there already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(f"name {name!r}: a TFDS name has small letters, digits and _ and starts with a letter")
    target = Path(data_dir) / name / version
    if target.exists():
        raise InputError(f"{target}: is there already; delete it, or choose another name")
    for split, source in splits.items():
        if not len(source):
            raise InputError(f"split {split!r} has no examples; check config.data")
    try:
        _builder(splits, name, str(data_dir), version, about).download_and_prepare()
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or _line(error)}); set --output") from error
    finally:
        for left in Path(data_dir).glob(f"{name}/incomplete.*"):
            shutil.rmtree(left, ignore_errors=True)
    return target


def _builder(splits: Mapping[str, Source], name: str, data_dir: str, version: str, about: str) -> Any:
    first = next(iter(splits.values()))[0]
    features = tfds.features.FeaturesDict({key: _feature(value) for key, value in first.items()})

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=features, description=about or name, disable_shuffling=True
            )

        def _split_generators(self, _):
            return {split: self._generate_examples(source) for split, source in splits.items()}

        def _generate_examples(self, source):
            for index in range(len(source)):
                example = source[index]
                check_alike(example, first, index)
                yield index, {key: _encoded(value) for key, value in example.items()}

    Prepared.name = name
    return Prepared(data_dir=data_dir, file_format="array_record")


def check_alike(example: Mapping[str, Any], first: Mapping[str, Any], index: int) -> None:
    """Raises InputError where an example cannot stand beside the first one in a data set."""
    for key, value in first.items():
        kinds = [(np.asarray(v).dtype.kind, np.asarray(v).dtype, np.shape(v)[2:]) for v in (value, example.get(key))]
        if kinds[0] != kinds[1] and not isinstance(value, str):
            kind, other = (" ".join(map(str, k[1:])) for k in kinds)
            raise InputError(
                f"example {index}: {key} is {other}, in example 0 it is {kind}; convert the files to one type"
            )


def _is_png(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4)))


def _feature(value: Any) -> Any:
    if isinstance(value, str):
        return tfds.features.Text()
    value = np.asarray(value)
    if _is_png(value):
        channels = 1 if value.ndim == 2 else value.shape[-1]
        return tfds.features.Image(shape=(None, None, channels), encoding_format="png")
    shape = (*(None,) * (value.ndim - 1), value.shape[-1]) if value.ndim == 3 else (None,) * value.ndim
    encoding = tfds.features.Encoding.ZLIB if shape else tfds.features.Encoding.NONE
    return tfds.features.Tensor(shape=shape, dtype=value.dtype, encoding=encoding)


def _encoded(value: Any) -> Any:
    if isinstance(value, np.ndarray) and _is_png(value):
        # an Image feature takes no array without TensorFlow
        return PIL.Image.fromarray(value[..., 0] if value.ndim == 3 and value.shape[-1] == 1 else value)
    return value
