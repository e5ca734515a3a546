"""What a run will cost, on any number of devices, without having them: python -m experiments.plan --config ... [--devices 64]

The training step is compiled for virtual CPU devices and read: parameters, bytes and FLOPs of a device, what devices send to
each other, what does not divide, and how many seconds a step takes at least on known devices. Reads no data.
"""

from experiments import launch

# isort: split
import argparse
import math
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from common import cost
from common import mesh as meshes
from common.errors import InputError
from common.plan import Plan, make_plan
from common.program import parse
from common.record import write_json
from common.state import TrainState, abstract_state
from common.step import make_train_step
from common.task import Task
from experiments.arguments import parse_with_config, parser
from experiments.tasks import make_task


def main(argv: list[str]) -> int:
    arguments = parser("experiments.plan", "What a run will cost on any number of devices, without having them.")
    arguments.add_argument(
        "--devices",
        type=positive,
        metavar="N",
        help="as config.mesh.devices, which of 0 means the fewest that the mesh allows",
    )
    arguments.add_argument("--examples", type=positive, metavar="N", help="size of the training split, for its epochs")
    arguments.add_argument("--read_data", action="store_true", help="read it (and a vocabulary) from the data instead")
    arguments.add_argument(
        "--share",
        type=share,
        default=1.0,
        help="of the peaks of a device that a step reaches (default: 1, no step is faster)",
    )
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the plan here")
    flags, config = parse_with_config(arguments, argv)
    fewest = max(config.mesh.get("fsdp", 1), 1) * max(config.mesh.get("space", 1), 1)
    config.mesh.devices = flags.devices or config.mesh.devices or fewest
    virtual_devices(config.mesh.devices)
    facts = plan(config, examples=flags.examples, read_data=flags.read_data, share=flags.share)
    facts = {"config": flags.config, "overrides": flags.overrides, **facts}
    show(facts, Console(width=max(100, Console().width)))
    if flags.json:
        write_json(flags.json, facts)
    return 0


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: at least 1")
    return number


def share(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{number}: above 0, and 1 at most")
    return number


def virtual_devices(count: int) -> None:
    """Makes the CPU `count` devices, whatever else is there. Before jax opens a device: RuntimeError after it."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    jax.config.update("jax_enable_compilation_cache", False)  # compile seconds are those of a first run


def plan(
    config: ConfigDict, *, examples: int | None = None, read_data: bool = False, share: float = 1.0
) -> dict[str, Any]:
    """The plan of a run as plain values, from its config with config.mesh.devices set, on as many devices of a CPU.

    examples: size of the training split; without it (and read_data) epochs give no number of steps.
    Raises InputError for a mesh that the run cannot have, with all that does not divide, and where data would be read.
    """
    run, state = open_run(config, examples, read_data)
    begin = time.perf_counter()
    compiled = compile_step(run, state)
    compile_seconds = time.perf_counter() - begin
    costs = cost.step_costs(parse(compiled.as_text()))
    parts = cost.state_bytes(state, run.task, run.mesh)
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    held = temporaries + sum(own for _, own in parts.values())
    fsdp = run.mesh.shape[meshes.FSDP]
    in_epochs = examples is None and not read_data and "epoch" in run.loop.duration
    dtype = config.model.get("dtype", "float32")
    return {
        "mesh": dict(run.mesh.shape),
        "batch_size": config.data.batch_size,
        "rows_of_a_device": config.data.batch_size / meshes.row_parts(run.mesh),
        "dtype": dtype,
        "duration": run.loop.duration,
        "steps": None if in_epochs else run.steps,
        "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(state.params)),
        "bytes": {name: {"whole": whole, "device": own} for name, (whole, own) in parts.items()},
        "temporary_bytes": temporaries,
        "gathered_bytes": cost.gathered_bytes(state.params, run.mesh),
        "device_bytes": held,
        "flops": costs["flops"],
        "traffic_bytes": costs["traffic"],
        "flops_per_byte": costs["intensity"],
        "collectives": [{**c._asdict(), "groups": len(c.groups), "sent": c.sent} for c in costs["collectives"]],
        "sent": cost.by_purpose(costs["collectives"]),
        "not_divided": undivided(state.params, fsdp),
        "share": share,
        "expected": cost.expected(costs, held, dtype, share),
        "compile_seconds": compile_seconds,
    }


def open_run(config: ConfigDict, examples: int | None, read_data: bool) -> tuple[Plan, TrainState]:
    """The run of a config and its abstract state, with nothing read and nothing compiled. Raises as `plan` does."""
    if not read_data:
        refuse_reading(config)
    # A library's convolutions (oneDNN, for bfloat16) say nothing of what they do inside.
    task = make_task(config)._replace(compiler_options={})
    found = obstacles(config, task)
    if found:
        raise InputError("; ".join(found))
    # The length of the run is in the schedule's numbers alone: any other one compiles to the same program.
    stand_in = 1000 * config.data.batch_size if examples is None and not read_data else examples
    run = make_plan(config, task, examples=stand_in)
    return run, abstract_state(run.make, run.abstract_batch, run.mesh)


def compile_step(run: Plan, state: TrainState) -> Any:
    trigger = [jax.ShapeDtypeStruct((), "int32")] if run.optimizer.average_after else []
    step = make_train_step(run.task, run.optimizer, run.mesh, seed=run.config.seed)
    return step.lower(state, run.abstract_batch, *trigger).compile()


def refuse_reading(config: ConfigDict) -> None:
    """Raises InputError where the program itself depends on the data."""
    if config.task.name == "jobs" and config.data.get("source") != "made":
        raise InputError(
            "config.task.name='jobs': as many embeddings as the log has users, programs and so on, which plan does not read; let it "
            "read with --read_data"
        )
    model, data = config.model, config.data
    characters = data.get("level", "characters") == "characters" and data.get("alphabet", "")
    if model.get("vocabulary") == 0 and not characters and data.get("source") != "made":
        raise InputError(
            "config.model.vocabulary=0: as many entries as the text has, which plan does not read; set "
            "--config.model.vocabulary=N, or let it read with --read_data"
        )
    if config.task.get("balance", "none") != "none":
        raise InputError(
            f"config.task.balance={config.task.balance}: the weights of the classes are counted in the masks, which plan does not read; "
            "set --config.task.balance=none, or let it read with --read_data"
        )


def obstacles(config: ConfigDict, task: Task) -> list[str]:
    """Why the run cannot have the mesh of its config: a line for each size that does not divide, with its cure."""
    devices, fsdp, space = config.mesh.devices, config.mesh.get("fsdp", 1), config.mesh.get("space", 1)
    found = []
    for name, parts in (("fsdp", fsdp), ("space", space), ("fsdp x space", fsdp * space)):
        if parts < 1 or (devices % parts and (" " not in name or not found)):
            found.append(f"config.mesh.{name}={parts}: does not divide {devices} devices; use a divisor of it")
    if space > 1 and not task.spatial:
        found.append(f"config.mesh.space={space}: the batches of this task are no images; use 1")
    for height in sorted({task.abstract_batch[name].shape[1] for name in task.spatial if space > 1}):
        if height % space:
            found.append(
                f"config.mesh.space={space}: does not divide the height {height} of images; change config.data.crop"
            )
    if space > 0 and devices % space == 0:
        accumulate = config.optimizer.get("accumulate", 1)
        parts = devices // space * accumulate
        rows = config.data.batch_size
        if rows % parts:
            what = f"{devices // space} devices" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
            near = max(round(rows / parts), 1) * parts
            found.append(
                f"config.data.batch_size={rows}: does not divide over {what}; use a multiple of {parts}, like {near}"
            )
    return found


def undivided(params: Any, fsdp: int) -> list[str]:
    """Parameters that lie whole on every device, with the cure where they are large."""
    if fsdp == 1:
        return []
    found = cost.whole_parameters(params, fsdp)
    large = [row for row in found if math.prod(row[1]) >= meshes.SMALLEST]
    lines = [
        f"{name} {list(shape)}: no axis divides by config.mesh.fsdp={fsdp}, so each device holds all of its {size(count)}, and "
        "as much for each moment of the optimiser; use a width that is a multiple of it"
        for name, shape, count in large
    ]
    if len(large) < len(found):
        count = sum(row[2] for row in found if row not in large)
        lines.append(
            f"{len(found) - len(large)} parameters of fewer than {meshes.SMALLEST} numbers, {size(count)} together: gathering "
            "them would cost more than holding them"
        )
    return lines


def size(count: float, unit: str = "B") -> str:
    """1234567 -> '1.23 MB'."""
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if count >= 0.9995 * 10**power:
            return f"{count / 10**power:.3g} {prefix}{unit}"
    return f"{count:.3g} {unit}"


def milliseconds(seconds: float) -> str:
    return few_digits(1e3 * seconds)


def few_digits(value: float, digits: int = 3) -> str:
    """More would promise what no estimate has: 22616748 -> '22,600,000'."""
    rounded = float(f"{value:.{digits}g}")
    return "<0.01" if value < 0.01 else f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def duration(seconds: float) -> str:
    """80 -> '1.33 minutes'."""
    for unit, length, least in (("days", 86400, 2), ("hours", 3600, 2), ("minutes", 60, 1)):
        if seconds >= least * length:
            return f"{few_digits(seconds / length)} {unit}"
    return f"{few_digits(seconds)} s"


def show(facts: dict[str, Any], console: Console) -> None:
    """The plan as tables."""
    mesh = " x ".join(f"{name} {count}" for name, count in facts["mesh"].items())
    devices = math.prod(facts["mesh"].values())
    console.print(f"{facts['config']}: {facts['parameters']:,} parameters; {devices} devices, {mesh}", highlight=False)
    console.print(table_of_bytes(facts))
    work, moved = facts["flops"], facts["traffic_bytes"]
    console.print(
        f"a step, on each device: {facts['rows_of_a_device']:g} of {facts['batch_size']} rows, {size(work, 'FLOP')}, "
        f"{size(moved)} read and written in memory ({facts['flops_per_byte']:.1f} FLOP a byte)",
        highlight=False,
    )
    console.print(table_of_collectives(facts) if facts["sent"] else "nothing is sent between devices")
    console.print(table_of_devices(facts))
    console.print(f"{length_of(facts)}; compiled in {facts['compile_seconds']:.1f} s", highlight=False, soft_wrap=True)
    for line in facts["not_divided"]:
        console.print(f"whole on each device: {line}", markup=False, highlight=False, soft_wrap=True)


def length_of(facts: dict[str, Any]) -> str:
    """The steps of the run, and how long they take on the first devices of the table."""
    if facts["steps"] is None:
        return f"steps of the run ({facts['duration']}): unknown: give --examples N or --read_data"
    steps = f"{facts['steps']:,} steps" + ("" if "step" in facts["duration"] else f" ({facts['duration']})")
    times = {name: duration(facts["steps"] * row["step"]) for name, row in facts["expected"].items()}
    how = "at least" if facts["share"] == 1 else f"at {facts['share']:.0%} of the peaks"
    return f"{steps}: {how} {', '.join(f'{times[name]} on {name}' for name in list(times)[:3])}"


def table_of_bytes(facts: dict[str, Any]) -> Table:
    table = Table()
    table.add_column("bytes")
    for column in ("whole", "on a device"):
        table.add_column(column, justify="right")
    for name, row in facts["bytes"].items():
        if row["whole"]:
            table.add_row(name, size(row["whole"]), size(row["device"]))
    gathered = f", {size(facts['gathered_bytes'])} of gathered parameters" if facts["gathered_bytes"] else ""
    table.add_row(
        f"temporaries: activations, gradients{gathered}", "", size(facts["temporary_bytes"]), end_section=True
    )
    table.add_row("together", "", size(facts["device_bytes"]))
    return table


def table_of_collectives(facts: dict[str, Any]) -> Table:
    others = any(row["purpose"] == "other" for row in facts["sent"])
    table = Table(title="collectives of a step", caption=OTHER if others else None)
    for column in ("collective", "of", "among"):
        table.add_column(column)
    for column in ("times", "bytes", "sent by a device"):
        table.add_column(column, justify="right")
    for row in facts["sent"]:
        times = f"{row['times']}" if row["known"] else f"{row['times']} x ?"
        table.add_row(row["kind"], row["purpose"], f"{row['devices']}", times, size(row["bytes"]), size(row["sent"]))
    return table


def table_of_devices(facts: dict[str, Any]) -> Table:
    how = "at least" if facts["share"] == 1 else f"at {facts['share']:.0%} of the peaks"
    dtype = "float32 (TF32 on NVIDIA GPUs, bfloat16 passes on TPUs)" if facts["dtype"] == "float32" else facts["dtype"]
    bound = "a lower bound, but for memory, which" if facts["share"] == 1 else "an estimate; memory"
    table = Table(title=f"milliseconds of a step, {how}, {dtype}", caption=CAPTION.format(bound=bound))
    table.add_column("device")
    steps = facts["steps"]
    for column in ("compute", "memory", "links", "step", "rows/s", *(["run"] if steps else []), "of its memory"):
        table.add_column(column, justify="right")
    for name, row in facts["expected"].items():
        times = [milliseconds(row[part]) for part in ("compute", "memory", "links", "step")]
        run = [duration(steps * row["step"])] if steps else []
        used = f"{few_digits(100 * row['memory_used'], 2)}%" + ("" if row["memory_used"] <= 1 else ": does not fit")
        table.add_row(name, *times, few_digits(facts["batch_size"] / row["step"]), *run, used)
    return table


OTHER = "other: what the compiler sends to split single operations over devices, by its own rules"
CAPTION = (
    "step: the longer of compute and memory, then the links, by published peaks and without latencies: {bound} "
    "is that of the program as compiled for a CPU; other compilers keep more in registers."
)


if __name__ == "__main__":
    launch.run(main)
