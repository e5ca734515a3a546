"""From a config to its Task: the one place that knows every task by name."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from common import config as configs
from common.errors import InputError
from common.task import Task
from lstm.tasks import classify, jobs, language, sentences
from unet import task as unet_task
from unet.landcover import task as land_cover

TASKS = {
    "segment": unet_task.make_task,
    "land_cover": land_cover.make_task,
    "language": language.make_task,
    "sentences": sentences.make_task,
    "classify": classify.make_task,
    "jobs": jobs.make_task,
}


def make_task(config: ConfigDict, facts: Mapping[str, Any] | None = None) -> Task:
    """The Task of a config. facts: those that a run keeps (see `Task.facts`).

    Raises InputError for an unknown name or key, with the nearest right one.
    """
    sections = ("seed", "task", "model", "data", "augment", "optimizer", "loop", "mesh")
    for name in config:
        if name not in sections:
            raise InputError(f"config.{name}: there is no such section; {configs.nearest(name, sections)}")
    for name in sections:
        if name not in config:
            raise InputError(f"config.{name} is missing: a config has the sections {', '.join(sections)}")
    given = {name: configs.kwargs(config[name]) for name in ("task", "model", "data", "augment")}
    name = given["task"].pop("name")
    if name not in TASKS:
        raise InputError(f"config.task.name={name!r}: no such task; {configs.nearest(name, TASKS)}")
    return TASKS[name](**given, **({"facts": facts} if facts else {}))
