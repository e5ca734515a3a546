"""Task: all that the loop knows of a model and its data, as one record of functions."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable


@runtime_checkable
class Source(Protocol):
    """Examples by number: anything with a length and an index. An example is a dict of NumPy arrays."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...


def no_augment(key, example):
    return example


def no_finding(*_):
    return []


class Task(NamedTuple):
    """The functions between a model, its data, and the loop.

    Pure, traced:
      init(key, batch) -> (params, model_state)
      loss(params, model_state, batch, key) -> (loss sum, count, {name: Mean}, model_state); the step minimises sum / count
      evaluate(params, model_state, batch) -> {name: metric}; rows where batch["mask"] is 0 count nothing
      augment(key, example) -> example; one row, on the device, under vmap
      predict(params, model_state, inputs) -> outputs
    On the host:
      train_source(split) -> Source of whole examples; crop(example, rng) -> what a row of a batch holds
      eval_source(split) -> Source of rows of one fixed shape
      train_batch(seed, step, rows) -> the rows `rows` (a slice) of the global batch of the 0-based `step`, a dict of NumPy
        arrays, where batches are no independent draws of examples (streams of text, buckets of like length); called by
        several threads at once, so it must be pure; its shapes may differ between steps. None: shuffled examples of
        train_source("train"). Either way an epoch is len(train_source("train")) / batch_size steps.
      scores(metrics) -> {name: number} of merged metrics; alarms(metrics) -> lines of warning
      facts() -> what the training part tells that a run needs again (vocabularies, scales), as JSON: kept in its facts.json, and
        given to `make_task` when the run is opened, so that no training data is needed then
      finish(apply) -> further facts, once training has ended (a temperature)
      live(apply, file, out, errors, **options) -> exit status: answers the lines of a file descriptor as they come
      scores_of_images(apply, split) -> {name: number} that need more than merged metrics, after training
      check() -> lines on what is wrong with the data, each with its cure
      predict_array(apply, x) -> the answer for one raw example of any size
      predict_files(apply, paths, output, **options) -> paths of the files written
      picture(run, split, metrics) -> [H, W, 3] uint8, a few answers side by side, for documents
      pages(run, split, metrics) -> [(title, HTML)], the model's own sections of the report
    A program may see only some rows of the batch, mapped over the others (`common.mesh.row_axis`): statistics over rows take
    pmean there, and what a row draws comes from `common.keys.rows` or `bernoulli`. Sums over rows need nothing.
    model_state is a dict; its entry "carry", where there is one, holds one row for each row of the training batch (recurrent
    carries) and lies on the devices like the batch; `evaluate` and `predict` get it too, and must start from a fresh one.
    A batch that holds "rate" (float32 [rows], all equal) scales the learning rate of its step.
    abstract_batch: shapes and dtypes of a training batch, from the config alone.
    spatial: the entries of a batch whose second axis is the height of an image, which config.mesh.space splits.
    compiler_options: XLA's, for the programs of this task.
    """

    abstract_batch: Any
    init: Callable
    loss: Callable
    evaluate: Callable
    predict: Callable
    train_source: Callable[[str], Source]
    eval_source: Callable[[str], Source]
    scores: Callable[[Mapping[str, Any]], dict[str, float]]
    train_batch: Callable[[int, int, slice], dict[str, Any]] | None = None
    compiler_options: Mapping[str, Any] = MappingProxyType({})
    spatial: tuple[str, ...] = ()
    crop: Callable = lambda example, rng: example
    augment: Callable | None = None
    alarms: Callable[[Mapping[str, Any]], list[str]] = no_finding
    check: Callable[[], list[str]] = no_finding
    scores_of_images: Callable = lambda apply, split: {}
    predict_array: Callable | None = None
    predict_files: Callable | None = None
    picture: Callable | None = None
    facts: Callable[[], dict[str, Any]] | None = None
    finish: Callable[[Callable], dict[str, Any]] | None = None
    live: Callable | None = None
    pages: Callable | None = None
