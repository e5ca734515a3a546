import json
import resource
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.checkpoint import Checkpoints
from common.errors import InputError
from common.plan import make_plan
from common.state import abstract_state, create_state
from tests.toy import make_config, make_task


def fresh(devices=1, **changes):
    plan = make_plan(make_config(mesh__devices=devices, **changes), make_task())
    return (
        plan,
        create_state(plan.make, plan.abstract_batch, plan.mesh),
        abstract_state(plan.make, plan.abstract_batch, plan.mesh),
    )


def equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def save_steps(folder, state, steps, host=None, keep=2):
    with Checkpoints(folder, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, state.replace(step=jnp.int32(step)), host or {})


def test_round_trip_onto_other_meshes(tmp_path):
    plan, state, _ = fresh(devices=8)
    save_steps(tmp_path, state, [3], {"best": 0.5})
    for devices in (8, 2, 1):
        _, _, abstract = fresh(devices=devices)
        with Checkpoints(tmp_path) as checkpoints:
            back = checkpoints.restore(checkpoints.latest(), abstract)
            assert checkpoints.manifest(3)["host"] == {"best": 0.5}
        equal(back, state.replace(step=jnp.int32(3)))
        assert len(back.params["w"].sharding.device_set) == devices
        assert jax.tree.structure(back) == jax.tree.structure(state)


def test_parts_can_be_restored_alone(tmp_path):
    _, state, abstract = fresh()
    save_steps(tmp_path, state, [1])
    with Checkpoints(tmp_path) as checkpoints:
        back = checkpoints.restore(1, abstract.replace(opt_state=()), ("params", "model_state"))
    equal(back.params, state.params)
    assert back.opt_state == ()


def test_what_is_saved_is_the_state_of_that_moment(tmp_path):
    # The step donates the state: the writer must not see the next step's numbers in its buffers.
    plan, state, abstract = fresh()
    bump = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    expected = jax.tree.map(np.array, state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, state, {})
        for _ in range(3):
            state = bump(state)
    with Checkpoints(tmp_path) as checkpoints:
        equal(checkpoints.restore(0, abstract), expected)


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    _, state, _ = fresh()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in range(1, 7):
            checkpoints.save(step, state, {"best_step": min(step, 2)})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        assert checkpoints.best() == 2
        assert checkpoints.latest() == 6
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["000002", "000005", "000006"]


def biggest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted", "manifest"])
def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_is_used(tmp_path, capsys, damage):
    _, state, abstract = fresh()
    save_steps(tmp_path, state, [1, 2])
    path = biggest_file(tmp_path / "000002")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "flipped":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "deleted":
        path.unlink()
    else:
        (tmp_path / "000002.json").write_text("{")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        equal(checkpoints.restore(1, abstract).params, state.params)
        said = capsys.readouterr().err
        assert "warning: checkpoint" in said and "000002" in said and said.count("\n") == 1
        # Step 2 can be written again over the damaged one.
        checkpoints.save(2, state.replace(step=jnp.int32(2)), {})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 2


def test_no_whole_checkpoint_is_an_error_not_a_fresh_start(tmp_path):
    _, state, _ = fresh()
    save_steps(tmp_path, state, [1])
    biggest_file(tmp_path / "000001").unlink()
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(InputError, match="no checkpoint is whole"):
        checkpoints.latest()


def test_a_save_without_its_manifest_does_not_exist(tmp_path):
    _, state, _ = fresh()
    save_steps(tmp_path, state, [1, 2])
    (tmp_path / "000002.json").unlink()
    (tmp_path / "000003.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        checkpoints.save(3, state, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000001", "000001.json", "000003", "000003.json"]


def test_a_checkpoint_of_another_model_names_the_first_parameter(tmp_path):
    _, state, abstract = fresh()
    save_steps(tmp_path, state, [1])
    other = abstract.replace(params={**abstract.params, "w": jax.ShapeDtypeStruct((4,), jnp.float32)})
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(InputError, match=r"params/w is float32\[3\] there and float32\[4\]"),
    ):
        checkpoints.restore(1, other)
    missing = abstract.replace(params={"w": abstract.params["w"]})
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(InputError, match=r"params/b is float32\[\] there and absent"),
    ):
        checkpoints.restore(1, missing)


def test_a_full_disk_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    _, state, abstract = fresh()
    big = state.replace(
        params={**state.params, "big": jnp.asarray(np.random.default_rng(0).normal(size=2**20), jnp.float32)}
    )
    save_steps(tmp_path, state, [1])
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            pytest.raises(InputError, match="could not be saved.*last good one is kept") as error,
            Checkpoints(tmp_path) as checkpoints,
        ):
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (2**20, old[1][1])
            )  # a file may have 1 MiB: the disk refuses the rest
            checkpoints.save(2, big, {})
            checkpoints.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old[1])
        signal.signal(signal.SIGXFSZ, old[0])
    assert "\n" not in str(error.value)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        equal(checkpoints.restore(1, abstract).params, state.params)


def test_manifest_lists_every_file(tmp_path):
    _, state, _ = fresh()
    save_steps(tmp_path, state, [1])
    manifest = json.loads((tmp_path / "000001.json").read_text())
    files = {str(p.relative_to(tmp_path / "000001")) for p in (tmp_path / "000001").rglob("*") if p.is_file()}
    assert set(manifest["files"]) == files
    shutil.rmtree(tmp_path / "000001")
    with Checkpoints(tmp_path) as checkpoints:
        assert "missing" in checkpoints.damage(1)
