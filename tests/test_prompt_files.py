"""Demonstrations in files: `.npy` without running what is pickled in it, `.npz` episodes, folders of them."""

import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
from authors_files import episode, write_npy

from mtdiff.data.episode_files import read_npz
from mtdiff.data.prompt_files import demonstrations, read_prompt_file
from mtdiff.errors import DataError


def write_stream(path, stream):
    """An .npy file of an object array whose pickle is `stream`."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + stream)
    return path


def test_a_prompt_file_of_the_authors(tmp_path):
    made = [episode(seed) for seed in range(3)]
    data = read_prompt_file(write_npy(tmp_path / "reach-v2_prompt.npy", made), tasks=["reach-v3"])
    assert (data.tasks, len(data), data.labels["clipped"]) == (["reach-v3"], 3, [1, 1, 1])
    for e, one in enumerate(made):
        np.testing.assert_array_equal(
            data[e].states, np.concatenate([one["observations"], one["next_observations"][-1:]])
        )
        np.testing.assert_array_equal(data[e].actions, np.clip(one["actions"], -1, 1))
        np.testing.assert_array_equal(data[e].rewards, one["rewards"][:, 0])
        assert (data[e].terminated, data[e].truncated) == (False, True)  # their terminal is the limit of steps
        assert not data[e].success.any()


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_and_layout_reads_alike(tmp_path, protocol):
    one = episode(1)
    odd = one | {"observations": np.asfortranarray(one["observations"]), "actions": one["actions"].astype(">f8")}
    odd["task"] = np.str_("reach-v2")
    array = np.empty(2, object)
    array[:] = [one, odd]
    data = read_prompt_file(write_stream(tmp_path / "a.npy", pickle.dumps(array, protocol)))
    assert data.tasks == ["reach-v2"]
    np.testing.assert_array_equal(data[0].states, data[1].states)
    np.testing.assert_array_equal(data[0].actions, data[1].actions)
    np.testing.assert_array_equal(data[0].states[:-1], one["observations"])


class Malicious:
    """Makes a file if it is unpickled."""

    def __init__(self, path, call=os.mkdir):
        self.path, self.call = path, call

    def __reduce__(self):
        return self.call, (str(self.path),)


@pytest.mark.parametrize("inside", [False, True])
def test_a_malicious_file_is_refused_and_not_run(tmp_path, inside):
    mark = tmp_path / "it-ran"
    bad = Malicious(mark)
    file = write_npy(tmp_path / "a.npy", [episode(), episode() | {"actions": bad} if inside else bad])
    with pytest.raises(DataError) as caught:
        read_prompt_file(file)
    assert str(caught.value) == (
        f"{file}: asks for posix.mkdir, and a prompt file needs no more than arrays, dicts and texts. "
        "Nothing in it was run."
    )
    assert not mark.exists()
    np.load(file, allow_pickle=True)  # it was armed
    assert mark.exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", "asks for builtins.eval"),
        (b"c__builtin__\ngetattr\n.", "asks for "),
        (b"cnumpy\nload\n(S'x'\ntR.", "asks for numpy.load"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "asks for numpy.core.multiarray.fromfile"),
        (b"cmtdiff.data.prompt_files\n_load\n.", "asks for mtdiff.data.prompt_files._load"),
        (b"c_codecs\nencode\n(Vx\nVzip\ntR.", "asks for a text in another encoding"),
        (b"cnumpy\nndarray\n}(Vmodule\nVos\nub.", "tries to change a function"),
        (b"cnumpy\nndarray\nN}V_answer\nI1\ns\x86b.", "tries to change a function"),
        (b"cnumpy\ndtype\n(VV8\ntR.", "holds numbers of kind 'V8', and only plain numbers and texts are read."),
        (b"Pos.system\n.", "UnpicklingError"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "cannot be read as a prompt file"),
        (b"]h\x00", "cannot be read as a prompt file"),
        (b"", "EOFError"),
        (b"N.", "should be an array of dicts, one an episode."),
    ],
)
def test_streams_that_ask_for_more_are_refused(tmp_path, name, said):
    file = write_stream(tmp_path / "a.npy", name)
    with pytest.raises(DataError) as caught:
        read_prompt_file(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)


def test_no_damage_leads_to_anything_but_an_error_or_an_array(tmp_path):
    """Bytes changed at random, and the stream cut at every opcode: numpy's own unpickling would crash on some."""
    array = np.empty(1, object)
    array[:] = [episode(steps=5)]
    stream = pickle.dumps(array, 4)
    rng = np.random.default_rng(0)
    cuts = [stream[: position or 0] for _, _, position in pickletools.genops(stream)]
    changed = []
    for _ in range(150):
        broken = bytearray(stream)
        for at in rng.integers(0, len(stream), 3):
            broken[at] = int(rng.integers(256))
        changed.append(bytes(broken))
    refused = 0
    for broken in cuts + changed:
        try:
            read_prompt_file(write_stream(tmp_path / "a.npy", broken))
        except DataError:
            refused += 1
    assert refused > len(cuts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": None}, "has no rewards. An episode has observations, actions, rewards, next_observations, "
         "terminals; got observations, actions, next_observations, terminals, task."),
        ({"rewards": np.zeros(3)}, "rewards should be (12,) or (12, 1), got (3,)."),
        ({"actions": np.zeros((11, 2))}, "observations and next_observations should be (T, O) and actions (T, A), got "
         "(12, 5), (12, 5) and (11, 2)."),
        ({"terminals": np.arange(12) == 4}, "terminals should be 1 at the last step only, got 1 at step 4 of 12."),
        ({"actions": np.full((12, 2), np.nan)}, "trajectory of task 'x': actions are not all finite: nan at step 0, "
         "dimension 0."),
    ],
)  # fmt: skip
def test_wrong_episodes_name_the_file(tmp_path, change, message):
    arrays = {key: value for key, value in (episode() | change).items() if value is not None}
    file = tmp_path / "0.npz"
    np.savez(file, **arrays)
    with pytest.raises(DataError) as caught:
        read_npz(file, task="x")
    assert str(caught.value) == f"{file}: {message}"


def test_files_that_are_no_episodes(tmp_path):
    file = tmp_path / "0.npz"
    with pytest.raises(DataError, match=rf"^{file}: no such file.$"):
        read_npz(file, task="x")
    np.savez(file, **episode())
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    with pytest.raises(DataError, match=rf"^{file}: cannot be read as .npz \("):
        read_npz(file, task="x")
    np.savez(file, **episode(actions=np.array([Malicious(tmp_path / "ran")], object)))
    with pytest.raises(DataError, match=rf"^{file}: cannot be read as .npz \(Object arrays cannot be loaded"):
        read_npz(file, task="x")
    assert not (tmp_path / "ran").exists()
    np.save(tmp_path / "plain.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"plain.npy: is an array of float64, not of dicts.$"):
        read_prompt_file(tmp_path / "plain.npy")


def test_where_demonstrations_can_be(tmp_path, dataset, prompts):
    folder = tmp_path / "npy"
    folder.mkdir()
    write_npy(folder / "reach-v2_prompt.npy", [episode(0), episode(1)])
    write_npy(folder / "push-v3_prompt.npy", [episode(2, task="push-v3")])
    found = demonstrations(folder, ["push-v3", "reach-v3"])
    assert (found.tasks, found.task_index.tolist()) == (["push-v3", "reach-v3"], [0, 1, 1])
    with pytest.raises(DataError) as caught:
        demonstrations(folder, ["soccer-v3"])
    assert str(caught.value) == (
        f"{folder}: has no demonstration of soccer-v3: neither soccer-v3_prompt.npy nor soccer-v3.npy nor "
        "soccer-v2_prompt.npy nor soccer-v2.npy."
    )
    dataset.save(tmp_path / "d", prompts=prompts)
    assert len(demonstrations(tmp_path / "d", ["reach-v3"])) == 3  # its prompts
    dataset.save(tmp_path / "e")
    assert len(demonstrations(tmp_path / "e", ["reach-v3"])) == 5  # its trajectories
    with pytest.raises(DataError) as caught:
        demonstrations(tmp_path / "e", ["reahc-v3"])
    assert str(caught.value) == (
        f"{tmp_path / 'e'}: has no demonstration of reahc-v3. It has reach-v3, push-v3. Did you mean 'reach-v3'?"
    )
    with pytest.raises(DataError, match=r"nothing: there is nothing here. It should be a dataset folder, an .npz "):
        demonstrations(tmp_path / "nothing", ["reach-v3"])
