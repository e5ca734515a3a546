"""Whether training runs together pays: where single operations are too small to keep the device busy.

So the measure is the size of one operation: the FLOPs of a matrix product or convolution of a step, the median.
"""

import functools
import math
from collections.abc import Callable, Iterator

import jax
from ml_collections import ConfigDict

from common.plan import Plan, make_plan
from common.stacked import on_one_device
from common.step import train_step
from common.task import Task

# FLOPs of a product up to which a program of 16 runs was faster than 16 programs, by backend. Measured by `python -m
# experiments.bench together`: experiments/results/bench_together.json, rows "product_flops" and the ratio of each case.
PAYS_UP_TO = {"cpu": 8.4e6}  # at 8.4e6 1.06 times as fast, at 3.4e7 0.88


def warning(config: ConfigDict, make_task: Callable[[ConfigDict], Task], runs: int) -> str:
    """A line where training `runs` runs like this one together is slower on this backend; '' where it pays, or where
    nothing was measured."""
    most = PAYS_UP_TO.get(jax.default_backend(), math.inf)
    if runs < 2 or most == math.inf:
        return ""
    found = product_flops(make_plan(on_one_device(config), make_task(config), examples=1))
    if found <= most:
        return ""
    return (
        f"{runs} runs of this size take longer together than one after another on this {jax.default_backend()}: a matrix "
        f"product of their step has {found:.1e} FLOPs, and up to {most:.1e} it pays (bench together); leave out --together"
    )


def product_flops(plan: Plan) -> int:
    """FLOPs of a matrix product or convolution of one run's step, the median of those that it executes; 0 without any."""
    state = jax.eval_shape(plan.make, plan.abstract_batch)
    step = functools.partial(train_step, task=plan.task, optimizer=plan.optimizer, seed=0)
    found = sorted(products(jax.make_jaxpr(step)(state, plan.abstract_batch).jaxpr, 1))
    left = sum(times for _, times in found) / 2
    for flops, times in found:
        left -= times
        if left <= 0:
            return flops
    return 0


def products(jaxpr, times: int) -> Iterator[tuple[int, int]]:
    """(FLOPs, how often) of each matrix product and convolution; a loop of unknown length counts once."""
    for equation in jaxpr.eqns:
        name, given = equation.primitive.name, equation.params
        size = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if name == "dot_general":
            (summed, _), _ = given["dimension_numbers"]
            yield 2 * size * math.prod(equation.invars[0].aval.shape[axis] for axis in summed), times
        elif name == "conv_general_dilated":
            _, *summed = given["dimension_numbers"].rhs_spec
            yield 2 * size * math.prod(equation.invars[1].aval.shape[axis] for axis in summed), times
        inner = times * given["length"] if name == "scan" else times
        for part in jax.tree.leaves(list(given.values()), is_leaf=is_program):
            if is_program(part):
                yield from products(getattr(part, "jaxpr", part), inner)


def is_program(part) -> bool:
    return hasattr(part, "eqns")
