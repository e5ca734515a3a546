"""experiments.plan: what is read from a compiled program is what was written into it; bytes by hand; errors in one line."""

import functools
import json
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from rich.console import Console

from common import collectives as coll
from common import cost
from common import program as programs
from common.config import load_config
from common.errors import InputError
from common.mesh import make_mesh
from common.plan import make_plan
from common.state import TrainState, abstract_state, state_shardings
from common.step import make_train_step
from experiments import bench, bench_scale
from experiments import plan as planning
from tests import toy
from unet.model import UNet

TEXT = "configs/lstm_source_text.py:smoke"
BRAIN = "configs/unet_brain.py:smoke"


def configured(spec, **changes):
    """A config with `mesh__devices=4` for config.mesh.devices."""
    return load_config(spec, {name.replace("__", "."): str(value) for name, value in changes.items()})


def compiled(function, *arguments):
    program = jax.jit(function).lower(*arguments).compile()
    return programs.parse(program.as_text()), program


@functools.cache
def lstm_on_four(fsdp):
    return planning.plan(configured(TEXT, mesh__devices=4, mesh__fsdp=fsdp))


def test_collectives_are_those_that_were_written():
    mesh = Mesh(np.array(jax.devices()[:4]), ("x",))

    def body(a, b):
        def turn(total, _):
            return lax.psum(total * 0.5, "x"), None

        looped, _ = lax.scan(turn, a[:3], None, length=5)
        sums = lax.psum((a, b), "x")
        return sums, lax.all_gather(b, "x", tiled=True), lax.psum_scatter(a * 2, "x", tiled=True), looped

    whole = PartitionSpec()
    outs = ((whole, whole), whole, PartitionSpec("x"), whole)
    mapped = jax.shard_map(body, mesh=mesh, in_specs=(whole, PartitionSpec("x")), out_specs=outs, check_vma=False)
    program, _ = compiled(mapped, jnp.zeros(8), jnp.zeros((16, 5)))
    found = coll.collectives(program)
    assert {c.groups for c in found} == {((0, 1, 2, 3),)}
    assert all(c.known for c in found)
    reduced = [c for c in found if c.kind == "all-reduce"]
    looped = [c for c in reduced if c.times == 5]
    assert [(c.bytes, c.sent) for c in looped] == [(3 * 4, 2 * 12 * 3 / 4)]
    assert sum(c.bytes * c.times for c in reduced if c.times == 1) == (8 + 4 * 5) * 4
    gathered, scattered = ([c for c in found if c.kind == kind] for kind in ("all-gather", "reduce-scatter"))
    assert [(c.bytes, c.times, c.sent) for c in gathered] == [(16 * 5 * 4, 1, 240)]
    assert [(c.bytes, c.times, c.sent) for c in scattered] == [(8 * 4, 1, 24)]


def test_a_loop_of_unknown_length_is_said_to_be_one():
    mesh = Mesh(np.array(jax.devices()[:4]), ("x",))
    loop = lambda a: lax.while_loop(lambda v: v.sum() < 100, lambda v: lax.psum(v, "x"), a)
    mapped = jax.shard_map(loop, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)
    found = coll.collectives(compiled(mapped, jnp.ones(8))[0])
    assert [(c.bytes, c.times, c.known) for c in found] == [(32, 1, False)]


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, to_apply=%add", ((0, 2), (1, 3))),
        ("replica_groups={}, to_apply=%add", ((0, 1, 2, 3),)),
        ("replica_groups=[1,4]<=[4], to_apply=%add", ((0, 1, 2, 3),)),
        ("replica_groups=[2,2]<=[2,2]T(1,0), to_apply=%add", ((0, 2), (1, 3))),
        ("replica_groups=mesh['data'=2,'fsdp'=2,'space'=1] {'fsdp'}, to_apply=%add", ((0, 1), (2, 3))),
        ("replica_groups=mesh['data'=2,'fsdp'=2] {'data'}, to_apply=%add", ((0, 2), (1, 3))),
        ("replica_groups=mesh['data'=2,'fsdp'=2] {'data','fsdp'}, to_apply=%add", ((0, 1, 2, 3),)),
        ("source_target_pairs={{0,1},{2,3}}, metadata={}", ((0, 1), (2, 3))),
    ],
)
def test_groups_in_all_spellings(written, groups):
    assert coll.groups_of(f"channel_id=1, {written}", 4) == groups


def test_flops_count_every_turn_of_a_loop():
    def looped(x, w):
        return lax.scan(lambda c, t: (c + jnp.tanh(t @ w), None), jnp.zeros((6, 32)), x)[0]

    program, _ = compiled(looped, jnp.zeros((10, 6, 96)), jnp.zeros((96, 32)))
    assert programs.flops(program) == 10 * 2 * 6 * 96 * 32


def test_flops_of_a_convolution():
    def convolved(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    program, _ = compiled(convolved, jnp.zeros((2, 12, 10, 4)), jnp.zeros((3, 3, 4, 8)))
    assert programs.flops(program) == 2 * (2 * 10 * 8 * 8) * (3 * 3 * 4)


def test_traffic_without_loops_is_that_of_xla():
    def net(x, w, table):
        y = jnp.tanh(x @ w) + 1
        return table[3:40] + 1, jnp.concatenate([y, y * 3], axis=1).sum(0)

    arguments = jnp.zeros((64, 96)), jnp.zeros((96, 32)), jnp.zeros((500, 16))
    program, whole = compiled(net, *arguments)
    np.testing.assert_allclose(programs.traffic(program), whole.cost_analysis()["bytes accessed"], rtol=1e-3)


def test_traffic_of_a_loop_reads_its_slices_not_the_whole_each_turn():
    turns, width = 50, 4096
    program, _ = compiled(
        lambda x: lax.scan(lambda c, t: (c + t * t, c), jnp.zeros(width), x), jnp.zeros((turns, width))
    )
    # A turn reads the carry and a slice and writes both anew: some passes over `width`, and none over all turns.
    passes = programs.traffic(program) / (turns * width * 4)
    assert 4 <= passes <= 10


def test_bytes_of_a_state_that_is_split_over_four():
    mesh = make_mesh(4, fsdp=4)
    params = {"w": (64, 32), "bias": (32,), "odd": (33, 35)}
    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in params.items()}
    carry = jax.ShapeDtypeStruct((8, 10), jnp.float32)
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), shapes, {"carry": carry}, (shapes, shapes), {})
    placed = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    state = jax.tree.map(placed, state, state_shardings(state, mesh))
    parts = cost.state_bytes(state, toy.make_task(), mesh)
    whole, own = 64 * 32 * 4 + 32 * 4 + 33 * 35 * 4, 64 * 32 + 32 * 4 + 33 * 35 * 4
    assert parts["parameters"] == (whole, own)
    assert parts["optimizer state"] == (2 * whole, 2 * own)
    assert parts["averaged parameters"] == (0, 0)
    assert parts["model state"] == (4 + 8 * 10 * 4, 4 + 8 * 10)
    assert parts["batch"] == (8 * 3 * 4 + 8 * 4 + 8 * 4, (8 * 3 * 4 + 8 * 4 + 8 * 4) // 4)
    assert cost.gathered_bytes(state.params, mesh) == 64 * 32 * 4
    large, small = planning.undivided(state.params, 4)
    assert large.startswith("odd [33, 35]: no axis divides by config.mesh.fsdp=4")
    assert "4.62 kB" in large
    assert small.startswith("1 parameters of fewer than 1024 numbers, 128 B")
    assert planning.undivided(state.params, 1) == []


def test_state_and_batch_are_the_arguments_of_the_program():
    task = toy.make_task()
    run = make_plan(toy.make_config(mesh__devices=4), task)
    state = abstract_state(run.make, run.abstract_batch, run.mesh)
    program = make_train_step(task, run.optimizer, run.mesh, seed=0).lower(state, run.abstract_batch).compile()
    parts = cost.state_bytes(state, task, run.mesh)
    unread = 2 * 4  # "row" of the 2 rows of a device: the compiler leaves out what the loss does not use
    assert sum(own for _, own in parts.values()) - unread == program.memory_analysis().argument_size_in_bytes


def test_the_net_of_the_paper_has_its_parameters():
    changes = {"width": 64, "depth": 4, "padding": "valid", "norm": "none", "classes": 2, "bands": 1}
    config = configured(
        BRAIN,
        **{f"model__{name}": value for name, value in changes.items()},
        task__class_names="['a','b']",
        task__colours="[]",
        task__tile=572,
        data__crop="[572,572]",
        mesh__devices=8,
    )
    _, state = planning.open_run(config, None, False)
    assert sum(x.size for x in jax.tree.leaves(state.params)) == 31_030_658


def test_data_parallel_sends_the_gradients_once():
    facts = lstm_on_four(1)
    parameters = facts["bytes"]["parameters"]
    assert parameters["whole"] == parameters["device"] == 4 * facts["parameters"]
    (sent,) = [s for s in facts["sent"] if s["purpose"].startswith("gradients")]
    sums = 6  # loss, its count, and the totals and counts of two metrics
    assert (sent["kind"], sent["times"], sent["devices"]) == ("all-reduce", 1, 4)
    assert sent["bytes"] == parameters["whole"] + 4 * sums
    row = bench_scale.row("LSTM, 4 data", facts)
    assert (row["gradient_sends"], row["gradient_bytes"], row["other_sends"]) == (1, sent["bytes"], 0)
    assert row["state_share"] == 1


def test_statistics_of_norms_are_counted_apart():
    source = '%p = f32[2,8] all-reduce(%x), metadata={op_name="jit(step)/shard_map/jvp(UNet)/down0a_norm/psum"}'
    assert coll.purpose_of(programs.parse_line(source)) == "statistics of norms"


SPLIT = """HloModule step, num_partitions=4

%body (p: (s32[], f32[4,16], f32[4,8])) -> (s32[], f32[4,16], f32[4,8]) {
  %p = (s32[], f32[4,16], f32[4,8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %w = f32[4,16] get-tuple-element(%p), index=1
  %x = f32[4,8] get-tuple-element(%p), index=2
  %copy = f32[4,16] copy(%w)
  %whole = f32[16,16] all-gather(%copy), replica_groups=[1,4]<=[4], dimensions={0}
  %rows = f32[16,8] all-gather(%x), replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %t = (s32[], f32[4,16], f32[4,8]) tuple(%i, %w, %x)
}

%condition (q: (s32[], f32[4,16], f32[4,8])) -> pred[] {
  %q = (s32[], f32[4,16], f32[4,8]) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (a: s32[], b: f32[4,16], c: f32[4,8]) -> f32[12,16] {
  %a = s32[] parameter(0), metadata={op_name="state.step"}
  %b = f32[4,16] parameter(1), metadata={op_name="state.params['w']"}
  %c = f32[4,8] parameter(2), metadata={op_name="batch['image']"}
  %start = (s32[], f32[4,16], f32[4,8]) tuple(%a, %b, %c)
  %loop = (s32[], f32[4,16], f32[4,8]) while(%start), condition=%condition, body=%body
  %sum = f32[4,16] add(%b, %b)
  %computed = f32[16,16] all-gather(%sum), replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %direct = f32[16,16] all-gather(%b), replica_groups=[1,4]<=[4], dimensions={0}
}
"""


def test_purposes_of_what_the_compiler_has_split():
    found = coll.collectives(programs.parse(SPLIT))
    assert [(c.bytes, c.purpose) for c in found] == [
        (1024, "parameters"),  # through the state of the loop
        (512, "other"),
        (1024, "other"),
        (1024, "parameters"),
    ]
    line = '%p = f32[2,8] {kind}(%x), metadata={{op_name="jit(step)/{source}"}}'
    for kind, source, purpose in (
        ("collective-permute", "jvp(UNet)/down0a/conv_general_dilated", "borders of images"),
        ("all-reduce", "while/body/transpose(jvp(UNet))/up2b/dot_general", "gradients"),
        (
            "all-reduce",
            "while/body/transpose(jvp(UNet))/(a/dot_general:a_norm/reduce_sum)",
            "gradients, statistics of norms",
        ),
        ("all-gather", "vmap()/reshape", "augmentation"),
        ("all-gather", "jvp(UNet)/up3/split", "other"),
    ):
        assert coll.purpose_of(programs.parse_line(line.format(kind=kind, source=source))) == purpose


def test_fsdp_gathers_what_it_has_split():
    facts = lstm_on_four(4)
    sent = {s["purpose"]: s for s in facts["sent"]}
    assert sent["parameters"]["bytes"] == sent["gradients"]["bytes"] == facts["gathered_bytes"]
    whole, own = (facts["bytes"]["parameters"][name] for name in ("whole", "device"))
    assert own == whole - facts["gathered_bytes"] * 3 // 4
    assert 1 < bench_scale.row("LSTM, 4 fsdp", facts)["state_share"] <= 1.1


def test_remat_takes_less_memory_and_changes_nothing():
    x = jax.random.normal(jax.random.key(0), (2, 64, 64, 1))
    temporaries, results = [], []
    net = UNet(width=8, depth=1, classes=2, bands=1, norm="none", padding="same")
    params = jax.jit(net.init)(jax.random.key(1), x)
    for remat in (False, True):
        net = net.clone(remat=remat)
        loss = lambda params, x, net=net: (net.apply(params, x, train=True) ** 2).mean()
        program = jax.jit(jax.value_and_grad(loss)).lower(params, x).compile()
        temporaries.append(program.memory_analysis().temp_size_in_bytes)
        results.append(program(params, x))
    if jax.__version_info__ >= (0, 12):  # jax 0.10's compiler for CPUs undoes it: what is computed again, it shares
        assert temporaries[1] < 0.8 * temporaries[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *results)


def test_chunks_of_a_recurrence_show_in_the_plan():
    long = {"data__bptt": 256, "data__batch_size": 4, "model__implementation": "scan", "mesh__devices": 1}
    plain, chunked = (planning.plan(configured(TEXT, model__chunk=chunk, **long)) for chunk in (0, -1))
    assert chunked["temporary_bytes"] < 0.6 * plain["temporary_bytes"]
    assert chunked["flops"] > plain["flops"]  # it computes again


def test_seconds_are_the_roofline_and_the_ring():
    device = cost.Device(1e3, 2e3, 1e6, 100.0, 10.0, 2, 1.0)
    near = coll.Collective("all-reduce", 40, 1, "", ((0, 1), (2, 3)), 3, True)
    far = coll.Collective("all-gather", 40, 1, "", ((0, 1, 2, 3),), 1, True)
    times = cost.seconds(device, "float32", 5e3, 200.0, [near, far])
    assert times == (5.0, 2.0, 3 * 40 / 10 + 30 / 1)
    assert times.step == 5 + 42
    assert cost.seconds(device, "bfloat16", 5e3, 300.0, [], share=0.5) == (5.0, 6.0, 0)
    with pytest.raises(InputError, match="float16"):
        cost.seconds(device, "float16", 1, 1, [])


def test_what_does_not_divide_is_said_at_once():
    config = configured(BRAIN, mesh__devices=6, mesh__fsdp=4, mesh__space=3, data__batch_size=7)
    with pytest.raises(InputError) as error:
        planning.plan(config)
    lines = str(error.value).split("; ")
    assert any(line.startswith("config.mesh.fsdp=4: does not divide 6 devices") for line in lines)
    assert any(line.startswith("config.mesh.space=3: does not divide the height 64") for line in lines)
    assert any(line.startswith("config.data.batch_size=7: does not divide over 2 devices") for line in lines)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="fsdp x space=8: does not divide 4 devices"):
        planning.plan(configured(BRAIN, mesh__devices=4, mesh__fsdp=2, mesh__space=4))
    with pytest.raises(InputError, match="batches of this task are no images"):
        planning.plan(configured(TEXT, mesh__devices=2, mesh__space=2))
    with pytest.raises(InputError, match="2 devices x 3 micro-batches; use a multiple of 6, like 18"):
        planning.plan(configured(TEXT, mesh__devices=2, optimizer__accumulate=3))


def test_what_would_be_read_is_named():
    nowhere = {"data__root": "/nowhere", "data__file": "none.txt", "mesh__devices": 1}
    with pytest.raises(InputError, match="config.model.vocabulary=0.*--read_data"):
        planning.open_run(configured("configs/lstm_text.py", **nowhere), None, False)
    _, state = planning.open_run(configured("configs/lstm_text.py", model__vocabulary=90, **nowhere), None, False)
    assert state.params["embedding"].shape == (90, 128)
    with pytest.raises(InputError, match="config.task.balance=median_frequency.*--read_data"):
        planning.open_run(configured(BRAIN, task__balance="median_frequency", mesh__devices=1), None, False)


def test_epochs_need_the_number_of_examples():
    epochs = configured(TEXT, mesh__devices=4, loop__duration="3 epochs", data__batch_size=16)
    assert planning.open_run(epochs, 160, False)[0].steps == 30


def test_numbers_for_people():
    assert [planning.few_digits(x) for x in (1.96e-6, 0.0123456, 25.43, 22616748)] == [
        "<0.01",
        "0.0123",
        "25.4",
        "22,600,000",
    ]
    spans = [planning.duration(x) for x in (0.001, 59, 84, 3 * 3600, 4 * 86400)]
    assert spans == ["<0.01 s", "59 s", "1.4 minutes", "3 hours", "4 days"]


def test_the_length_of_the_run_and_what_kind_of_number_it_is(capsys):
    words = ["--config", TEXT, "--config.loop.duration=20000 steps", "--devices", "8"]  # as many as the tests have
    facts = planning.plan(
        configured(TEXT, mesh__devices=8, loop__duration="20000 steps", model__dtype="float32"), share=0.4
    )
    facts |= {"config": TEXT, "overrides": words}
    for part, bound in ((0.4, "an estimate"), (1, "a lower bound")):
        planning.show({**facts, "share": part}, Console(width=250))
        said = " ".join(capsys.readouterr().out.split())
        assert bound in said and ("a lower bound" in said) == (part == 1)
        assert "float32 (TF32 on" in said and "20,000 steps: at " in said and "unnamed" not in said


def test_rows_without_candidates_become_scores_and_tables(capsys):
    rows = [{"case": "a", "sends": 1}, {"case": "b", "sends": 2}, {"case": "c", "overhead_ms": 0.25}]
    assert bench.scores(rows) == {"sends/a": [1], "sends/b": [2], "overhead_ms/c": [0.25]}
    bench.show_numbers("scale", rows)
    assert "0.25" in capsys.readouterr().out


@pytest.mark.slow
def test_sixty_four_devices_from_the_command_line(tmp_path, python):
    path = tmp_path / "plan.json"
    words = ["--config", TEXT, "--devices", "64", "--config.data.batch_size=64", "--config.loop.duration=2 epochs"]
    command = [python, "-m", "experiments.plan", *words, "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "64 devices, data 64 x fsdp 1 x space 1" in done.stdout
    assert "give --examples N" in done.stdout
    facts = json.loads(path.read_text())
    assert facts["steps"] is None
    assert facts["rows_of_a_device"] == 1
    assert {s["devices"] for s in facts["sent"]} == {64}
    assert set(facts["expected"]) == set(cost.DEVICES)
    assert all(row["step"] >= row["links"] > 0 for row in facts["expected"].values())


@pytest.mark.parametrize("words", [["--devices", "0"], ["--share", "1.5"], ["--examples", "many"]])
def test_wrong_usage_is_refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        planning.main(["--config", TEXT, *words])
    assert stop.value.code == 2
    assert words[0] in capsys.readouterr().err
