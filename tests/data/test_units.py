"""Speech tokens on disk: plain arrays come back, published pickles are converted, and no pickle can run anything."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from vocalnet.__main__ import app
from vocalnet.data.convert import convert, units_files
from vocalnet.data.units import UnitsError, count_units, parse_units, read_published, read_units, save_units

UNITS = np.array([5, 0, 6560, 7, 7])


class Harmful:
    """What an unpickler calls when it meets this; `np.load(..., allow_pickle=True)` would run it too."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def published(folder, value, name="1.npy", protocol=None):
    path = folder / name
    if protocol is None:
        np.save(path, value, allow_pickle=True)
    else:
        np.save(path, np.array(None, dtype=object), allow_pickle=True)
        header = path.read_bytes()[:128]
        path.write_bytes(header + pickle.dumps(np.array(value, dtype=object), protocol=protocol))
    return path


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint8", ">i4"])
def test_plain_arrays_of_any_integer_come_back(dtype, tmp_path):
    path = tmp_path / "1.npy"
    np.save(path, (UNITS % 200).astype(dtype))
    for units in (read_units(path), parse_units(path.read_bytes(), path.name), read_published(path)):
        assert units.dtype == np.int64
        assert np.array_equal(units, UNITS % 200)
    assert count_units(path) == 5


PUBLISHED = {
    "numpy": {"speech_token": UNITS, "speech_token_len": 5},
    "padded": {"speech_token": np.append(UNITS, [0, 0])[None], "speech_token_len": np.array([5])},
    "list": {"speech_token": UNITS.tolist()},
    "tensor": {"speech_token": torch.tensor(UNITS)[None], "speech_token_len": torch.tensor([5])},
    "int32": OrderedDict(speech_token=UNITS.astype(np.int32), speech_token_len=np.int64(5)),
    "objects": UNITS.astype(object),
}


@pytest.mark.parametrize("protocol", [None, 2, 4, 5])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_dicts_become_their_tokens(name, protocol, tmp_path):
    path = published(tmp_path, PUBLISHED[name], protocol=protocol)
    assert np.array_equal(read_published(path), UNITS)


def test_names_of_older_numpy_are_known(tmp_path):
    path = published(tmp_path, PUBLISHED["numpy"])
    content = path.read_bytes()
    assert content.count(b"numpy._core") == 1
    # "numpy._core.multiarray" has 23 bytes, its older name one fewer
    old = content.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    frame = old.index(b"\x95") + 1
    length = int.from_bytes(old[frame : frame + 8], "little") - 1
    path.write_bytes(old[:frame] + length.to_bytes(8, "little") + old[frame + 8 :])
    assert b"numpy.core" in path.read_bytes()
    assert np.array_equal(read_published(path), UNITS)


@pytest.mark.parametrize(
    "call",
    [
        (os.system, "touch {}"),
        (eval, "open('{}', 'w')"),
        (np.save, "{}", 1),
        (torch.save, 1, "{}"),
        (getattr, "text", "upper"),
        (pickle.loads, b"N."),
    ],
    ids=lambda call: call[0].__name__,
)
def test_a_pickle_that_calls_anything_else_is_refused_and_does_nothing(call, tmp_path):
    mark = tmp_path / "mark"
    function, *arguments = call
    filled = [a.format(mark) if isinstance(a, str) else a for a in arguments]
    path = published(tmp_path, {"speech_token": Harmful(function, *filled)})
    before = set(tmp_path.iterdir())
    with pytest.raises(UnitsError, match=r"its pickle asks for .*, which no array needs"):
        read_published(path)
    assert set(tmp_path.iterdir()) == before


def test_a_harmful_storage_inside_a_tensor_is_refused(tmp_path):
    inner = pickle.dumps(Harmful(os.system, f"touch {tmp_path / 'mark'}"), protocol=2)
    path = published(tmp_path, {"speech_token": Harmful(torch.storage._load_from_bytes, inner)})
    with pytest.raises(UnitsError, match="cannot be read"):
        read_published(path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"units": UNITS}, "without speech_token; its keys are units"),
        ({"speech_token": UNITS, "speech_token_len": 9}, "holds 5 tokens, but its speech_token_len is 9"),
        ({"speech_token": UNITS / 2}, "holds float64, not integers"),
        ({"speech_token": np.zeros((2, 3), int)}, r"the shape \(2, 3\)"),
        ({"speech_token": [[1], [2, 3]]}, "rows of different lengths"),
        (np.zeros((2, 2), int), r"the shape \(2, 2\)"),
    ],
)
def test_what_holds_no_tokens_is_refused(value, message, tmp_path):
    with pytest.raises(UnitsError, match=message):
        read_published(published(tmp_path, value))


def test_a_cut_pickle_is_refused(tmp_path):
    path = published(tmp_path, PUBLISHED["numpy"])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UnitsError, match="cannot be read"):
        read_published(path)


def test_conversion_in_place_keeps_what_is_plain_and_says_what_failed(tmp_path):
    (tmp_path / "deep").mkdir()
    published(tmp_path / "deep", PUBLISHED["tensor"])
    save_units(tmp_path / "2.npy", UNITS)
    published(tmp_path, {"speech_token": Harmful(os.getcwd)}, "3.npy")
    content = {name: (tmp_path / name).read_bytes() for name in ("2.npy", "3.npy")}
    done = convert(*units_files(tmp_path), None, n_workers=1)
    assert (done["n_converted"], done["n_plain"]) == (1, 1)
    assert [row["file"] for row in done["failed"]] == [str(tmp_path / "3.npy")]
    assert np.array_equal(read_units(tmp_path / "deep" / "1.npy"), UNITS)
    assert content == {name: (tmp_path / name).read_bytes() for name in content}


def run(*arguments):
    return CliRunner().invoke(app, ["data", "convert", *(str(a) for a in arguments)])


def test_the_command_converts_the_units_of_a_list(pairs):
    for i in range(4):
        published(pairs.folder / "units", PUBLISHED["numpy"], f"{i}.npy")
    out = pairs.folder / "plain"
    done = run(pairs.path, "--out", out, "--workers", 1, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"n_converted": 4, "n_plain": 0, "failed": []}
    assert np.array_equal(read_units(out / "units" / "3.npy"), UNITS)
    assert run(pairs.path).exit_code == 2
    pairs.units(1).write_text("no array")
    bad = run(pairs.folder / "units", "--in-place", "--workers", 1)
    assert bad.exit_code == 2
    assert f"{pairs.units(1)} was not converted" in bad.stderr
