"""What a compiled program does, read from its text (HLO): how often each instruction runs, FLOPs, memory traffic, collectives.

`compiled.cost_analysis()` counts the body of a loop once, whatever the number of turns; here it counts as often as it runs.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# These name memory and move nothing; the bodies of those that call are counted by themselves.
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "iota")
FREE += ("after-all", "opt-barrier", "partition-id", "replica-id")


class Array(NamedTuple):
    """An array of a program's text, like f32[3,8]."""

    kind: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        bits = 8 if self.kind == "pred" else int((re.search(r"\d+", self.kind) or ["0"])[0])
        return math.prod(self.shape) * -(-bits // 8)


class Instruction(NamedTuple):
    """One line of a program. rest: its attributes, as they stand there; purpose: what of the source it belongs to."""

    name: str
    kind: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    rest: str
    root: bool

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.result)

    @property
    def source(self) -> str:
        """Where in the traced function it comes from, like 'jit(step)/jvp(UNet)/down0a_norm/psum'."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""


Computation = dict[str, Instruction]


class Program(NamedTuple):
    computations: dict[str, Computation]
    entry: str
    devices: int


class Run(NamedTuple):
    """An instruction, the computation it stands in, and how often it runs; known: no loop around it hides its number of
    turns, which then counts as one."""

    instruction: Instruction
    computation: Computation
    times: int
    known: bool


def parse(text: str) -> Program:
    """A program from `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$", line)
        if head:
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif line.startswith("  ") and " = " in line:
            instruction = parse_line(line.strip())
            current[instruction.name] = instruction
    header = text.partition("\n")[0]
    counts = [int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", header)]
    return Program(computations, entry, math.prod(counts))


def parse_line(line: str) -> Instruction:
    left, _, right = line.partition(" = ")
    end = closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    shape, right = right[:end], right[end:].strip()
    opening = right.index("(")
    end = closing(right, opening)
    operands = tuple(re.findall(r"%([\w.\-]+)", right[opening:end]))
    name = left.removeprefix("ROOT ").lstrip("%")
    return Instruction(name, right[:opening], arrays(shape), operands, right[end + 1 :], left.startswith("ROOT "))


def closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    raise ValueError(f"a bracket is not closed: {text[start : start + 80]}")


def arrays(shape: str) -> tuple[Array, ...]:
    found = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return tuple(Array(kind, tuple(int(n) for n in sides.split(",") if n)) for kind, sides in found)


def called(instruction: Instruction, *attributes: str) -> list[str]:
    """The computations that an instruction names in these attributes."""
    found = []
    for attribute in attributes:
        for text in re.findall(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", instruction.rest):
            found += re.findall(r"[\w.\-]+", text)
    return found


def runs(program: Program) -> Iterator[Run]:
    """Every instruction outside fusions, as often as it runs. Both branches of a condition count."""

    def visit(name: str, times: int, known: bool) -> Iterator[Run]:
        for instruction in program.computations[name].values():
            yield Run(instruction, program.computations[name], times, known)
            if instruction.kind == "while":
                turns = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.rest)
                for inner in called(instruction, "body", "condition"):
                    yield from visit(inner, times * int(turns[1]) if turns else times, known and bool(turns))
            elif instruction.kind in ("call", "conditional"):
                parts = ("to_apply", "branch_computations", "true_computation", "false_computation")
                for inner in called(instruction, *parts):
                    yield from visit(inner, times, known)

    return visit(program.entry, 1, True)


def flops(program: Program) -> int:
    """Of matrix products and convolutions in a step on one device, 2 for each product that is added up."""
    return sum(run.times * flops_of(program, run.instruction, run.computation) for run in runs(program))


def flops_of(program: Program, instruction: Instruction, computation: Computation) -> int:
    if instruction.kind == "fusion":
        inner = [program.computations[name] for name in called(instruction, "calls")]
        return sum(flops_of(program, i, part) for part in inner for i in part.values())
    if instruction.kind == "dot":
        left = computation[instruction.operands[0]].result[0].shape
        summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        return 2 * math.prod(instruction.result[0].shape) * math.prod(left[int(n)] for n in summed[1].split(",") if n)
    if instruction.kind == "convolution":
        kernel = computation[instruction.operands[1]].result[0].shape
        layout = re.search(r"dim_labels=\w+_(\w+)->", instruction.rest)[1]
        per_output = math.prod(size for size, what in zip(kernel, layout, strict=True) if what != "o")
        spread = re.search(r"lhs_dilate=([\dx]+)", instruction.rest)  # zeros between the inputs are no work
        zeros = math.prod(map(int, spread[1].split("x"))) if spread else 1
        return 2 * math.prod(instruction.result[0].shape) * per_output // zeros
    return 0


def traffic(program: Program) -> int:
    """Bytes that the instructions of a step read and write on one device: what memory moves where caches keep nothing."""
    return sum(run.times * traffic_of(program, run.instruction, run.computation) for run in runs(program))


def traffic_of(program: Program, instruction: Instruction, computation: Computation) -> int:
    if instruction.kind in FREE:
        return 0
    sizes = [computation[name].bytes for name in instruction.operands]
    if instruction.kind in ("slice", "dynamic-slice", "gather"):
        return 2 * instruction.bytes
    if instruction.kind == "dynamic-update-slice":
        return 2 * sizes[1]
    if instruction.kind == "scatter":
        return 3 * sizes[-1] + sum(sizes[1:-1])
    if instruction.kind == "fusion":
        return fused_traffic(program.computations[called(instruction, "calls")[0]])
    return instruction.bytes + sum(sizes)


def fused_traffic(inside: Computation) -> int:
    """Of a fusion: a parameter of which only slices are used is read as far as they go, and
    one of which a slice is replaced is written there alone."""
    total = 0
    for parameter in inside.values():
        if parameter.kind != "parameter":
            continue
        names, uses = {parameter.name}, []
        for i in inside.values():  # in order, so that what a bitcast renames is known before it is used
            if names & set(i.operands):
                (names.add(i.name) if i.kind == "bitcast" else uses.append(i))
        size = parameter.bytes
        if uses and all(i.kind in ("slice", "dynamic-slice", "gather") and i.operands[0] in names for i in uses):
            size = min(size, sum(i.bytes for i in uses))
        elif uses and all(i.kind == "dynamic-update-slice" and i.operands[0] in names for i in uses):
            size = 0
        total += size
    return total + sum(written(inside, i) for i in inside.values() if i.root)


def written(inside: Computation, result: Instruction) -> int:
    if result.kind in ("tuple", "bitcast"):
        return sum(written(inside, inside[name]) for name in result.operands)
    if result.kind == "dynamic-update-slice":
        return inside[result.operands[1]].bytes
    return result.bytes
