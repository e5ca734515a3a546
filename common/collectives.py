"""What devices send each other in a step: the collectives of a compiled program, each with what it is for."""

import math
import re
from typing import NamedTuple

import numpy as np

from common.program import Computation, Instruction, Program, called, runs

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """A collective. bytes: of the whole that takes part on one device (the full array of a gather or a scatter).
    groups: the devices that exchange with each other. purpose: what is sent."""

    kind: str
    bytes: int
    operands: int
    purpose: str
    groups: tuple[tuple[int, ...], ...]
    times: int
    known: bool

    @property
    def size(self) -> int:
        """Devices in a group."""
        return max(map(len, self.groups), default=1)

    @property
    def sent(self) -> float:
        """Bytes that a device sends, each time, by the ring algorithm."""
        if self.kind == "collective-permute":
            return self.bytes
        return (2 if self.kind == "all-reduce" else 1) * self.bytes * (self.size - 1) / self.size


def collectives(program: Program) -> list[Collective]:
    """Every collective of a step, in order, with how often it runs."""
    found = []
    for run in runs(program):
        instruction = run.instruction
        if instruction.kind.removesuffix("-start") not in COLLECTIVES:
            continue
        groups = groups_of(instruction.rest, program.devices)
        whole = instruction.bytes * (len(groups[0]) if instruction.kind == "reduce-scatter" else 1)
        purpose = purpose_of(instruction, origin(program, run.computation, instruction))
        facts = (len(instruction.operands), purpose, groups, run.times, run.known)
        found.append(Collective(instruction.kind, whole, *facts))
    return found


def origin(program: Program, computation: Computation, instruction: Instruction) -> str:
    """The argument of the program that an instruction moves, like "state.params['w']", also through the state of a loop;
    '' where it moves something computed."""
    while instruction.kind != "parameter":
        if len(instruction.operands) != 1 or "reduce" in instruction.kind:
            return ""
        place = re.search(r"index=(\d+)", instruction.rest) if instruction.kind == "get-tuple-element" else None
        instruction = computation[instruction.operands[0]]
        if place and instruction.kind == "parameter":
            computation, loop = loop_of(program, computation)
            instruction = computation[loop.operands[0]] if loop else instruction
        if place:
            if instruction.kind != "tuple":
                return ""
            instruction = computation[instruction.operands[int(place[1])]]
    return instruction.source if computation is program.computations[program.entry] else ""


def loop_of(program: Program, body: Computation) -> tuple[Computation, Instruction | None]:
    """Where the loop stands that runs this body, and the loop; the body and None where it is no loop's."""
    for part in program.computations.values():
        for i in part.values():
            if i.kind == "while" and program.computations[called(i, "body")[0]] is body:
                return part, i
    return body, None


def purpose_of(instruction: Instruction, origin: str = "") -> str:
    """What is sent, by the place in the source; origin: the argument of the program that it is, if it is one."""
    source = instruction.source
    backward = "transpose(jvp" in source
    if re.search(r"_?norm\w*/", source, re.IGNORECASE):
        several = backward and re.search(r"dot_general|conv_general_dilated", source)
        return "gradients, statistics of norms" if several else "statistics of norms"
    if instruction.kind == "all-gather" and (source.endswith("/all_gather") or origin.startswith("state.params")):
        return "parameters"
    if instruction.kind == "reduce-scatter":
        return "gradients"
    if instruction.kind == "all-reduce" and re.search(r"shard_map/psum\)*$", source):
        return "gradients, metrics"
    if instruction.kind == "collective-permute":
        return "borders of images"
    if instruction.kind == "all-reduce" and backward:
        return "gradients"
    if "vmap(" in source and "jvp(" not in source:
        return "augmentation"
    return "other"


def groups_of(rest: str, devices: int) -> tuple[tuple[int, ...], ...]:
    """The groups of devices that a collective names, in any of the ways that XLA writes them."""
    everybody = np.arange(devices)
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", rest)
    if pairs:
        return tuple(tuple(map(int, pair.split(","))) for pair in re.findall(r"\d+,\d+", pairs[1]))
    axes = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", rest)
    if axes:  # mesh['data'=4,'fsdp'=2] {'data'}
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", axes[1])}
        named = [list(sizes).index(name) for name in re.findall(r"'(\w+)'", axes[2])]
        others = [n for n in range(len(sizes)) if n not in named]
        size = math.prod(list(sizes.values())[n] for n in named)
        grid = everybody.reshape(*sizes.values()).transpose(*others, *named).reshape(-1, size)
        return tuple(tuple(row) for row in grid.tolist())
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if iota:  # [2,4]<=[4,2]T(1,0)
        numbers = lambda text: [int(n) for n in text.split(",")]
        grid = np.arange(math.prod(numbers(iota[2]))).reshape(numbers(iota[2]))
        grid = grid.transpose(numbers(iota[3])) if iota[3] else grid
        return tuple(tuple(row) for row in grid.reshape(numbers(iota[1])).tolist())
    listed = re.search(r"replica_groups=\{(\{.*?\})\}", rest)
    if listed:  # {{0,1},{2,3}}
        return tuple(tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", listed[1]))
    return (tuple(everybody.tolist()),)
