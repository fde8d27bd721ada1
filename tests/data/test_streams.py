"""Pairs that are streamed, from packs of JSONL and tar or from the library `datasets`, are those of the list."""

from __future__ import annotations

import json
import sys
import tarfile
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import soundfile
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from vocalnet.__main__ import app
from vocalnet.data.lists import read_entries
from vocalnet.data.streams import PackStream, hub_pairs, pack, pair_of_row, read_pack, shuffled
from vocalnet.data.units import read_units


@pytest.fixture
def packs(pairs):
    return pack(pairs.path, pairs.folder / "packs", pack_bytes=60_000)


def test_packs_give_the_list_back_in_its_order(pairs, packs):
    assert [path.name for path in packs] == ["pairs-000000.jsonl", "pairs-000001.jsonl"]
    found = [pair for path in packs for pair in read_pack(path)]
    for i, pair in enumerate(found):
        samples, _ = soundfile.read(pairs.question(i), dtype="float32")
        assert pair.id == f"pair-{i}"
        assert np.array_equal(pair.samples, samples)
        assert pair.conversations == pairs.entries[i]["conversations"]
        assert np.array_equal(pair.units, read_units(pairs.units(i)))
    assert len(found) == 4


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_a_line_ends_at_a_newline_only(pairs, mark):
    text = f"First{mark}second."
    pairs.entries[1]["conversations"][1]["value"] = text
    (packed,) = pack(pairs.write(), pairs.folder / "packs")
    assert [entry["conversations"][1]["value"] for entry in read_entries(packed)][1] == text


def test_packing_twice_gives_the_same_bytes(pairs, packs):
    again = pack(pairs.path, pairs.folder / "again", pack_bytes=60_000)
    for one, two in zip(packs, again, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert one.with_suffix(".tar").read_bytes() == two.with_suffix(".tar").read_bytes()


def test_packing_again_leaves_no_pack_of_before(pairs, packs):
    other = pairs.folder / "packs" / "pairs-other-000000.jsonl"
    other.write_text("")  # of a list called pairs-other
    del pairs.entries[1:]
    pairs.write()
    again = pack(pairs.path, pairs.folder / "packs", pack_bytes=60_000)
    names = sorted(path.name for path in (pairs.folder / "packs").iterdir())
    assert names == ["pairs-000000.jsonl", "pairs-000000.tar", other.name]
    assert [pair.id for path in again for pair in read_pack(path)] == ["pair-0"]


def test_a_pack_that_is_written_anew_is_not_there_meanwhile(pairs, packs):
    pairs.question(1).unlink()
    with pytest.raises(ValueError, match="Entry 1"):
        pack(pairs.path, pairs.folder / "packs", pack_bytes=60_000)
    assert not packs[0].exists()
    assert packs[1].exists()


def test_a_stage_1_list_and_another_rate_are_streamed_too(pairs):
    for entry in pairs.entries:
        del entry["units"]
    soundfile.write(pairs.question(0), np.full(4000, 0.1), 8000)
    (path,) = pack(pairs.write(), pairs.folder / "packs")
    first, *_ = read_pack(path)
    assert first.units is None
    assert len(first.samples) == 8000  # half a second at 16 kHz


def ids(stream):
    return [pair.id for pair in stream]


def test_a_stream_deals_every_pair_out_once_in_an_order_of_its_seed_and_epoch(packs):
    whole = PackStream(packs, seed=3)
    first, again = ids(whole), ids(whole)
    assert first == again
    assert sorted(first) == [f"pair-{i}" for i in range(4)]
    orders = set()
    for epoch in range(8):
        whole.set_epoch(epoch)
        orders.add(tuple(ids(whole)))
    assert len(orders) > 1
    shares = [ids(PackStream(packs, seed=3, rank=rank, n_ranks=2)) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(first)
    loader = DataLoader(whole, batch_size=None, num_workers=0)
    assert sorted(ids(loader)) == sorted(first)
    with pytest.raises(ValueError, match="2 packs are too few for 3 ranks"):
        PackStream(packs, n_ranks=3)


@pytest.mark.parametrize("n", [0, 1])
def test_no_buffer_keeps_the_order(n):
    assert list(shuffled(range(9), n, np.random.default_rng(0))) == list(range(9))


def test_a_buffer_moves_items_no_further_than_it_is_long():
    order = list(shuffled(range(200), 10, np.random.default_rng(0)))
    assert sorted(order) == list(range(200))
    assert order != list(range(200))
    assert all(item <= place + 9 for place, item in enumerate(order))


def test_a_broken_pack_is_named(packs):
    path = packs[0].with_suffix(".tar")
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"Cannot read the pack .*pairs-000000\.tar"):
        list(read_pack(packs[0]))
    with tarfile.open(path, "w"):
        pass
    with pytest.raises(ValueError, match=r"lacks a file of 'pair-0': 000000000\.wav, 000000000\.npy"):
        list(read_pack(packs[0]))
    path.unlink()
    with pytest.raises(ValueError, match="Cannot read the pack"):
        list(read_pack(packs[0]))


def test_the_command_packs(pairs):
    out = pairs.folder / "packs"
    done = CliRunner().invoke(app, ["data", "pack", str(pairs.path), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"packs": [str(out / "pairs-000000.jsonl")]}
    pairs.units(2).unlink()
    bad = CliRunner().invoke(app, ["data", "pack", str(pairs.path), "--out", str(pairs.folder / "bad")])
    assert bad.exit_code == 2
    assert f"Entry 2 of {pairs.path}, id 'pair-2', needs {pairs.units(2)}" in bad.stderr
    assert not list((pairs.folder / "bad").iterdir())


def rows_of(pairs):
    for i, entry in enumerate(pairs.entries):
        recording = {"bytes": pairs.question(i).read_bytes(), "path": None}
        yield {**entry, "speech": recording, "units": read_units(pairs.units(i)).tolist()}


def test_a_dataset_of_the_hub_gives_pairs(pairs, monkeypatch):
    asked = []

    class Dataset(list):
        def cast_column(self, name, feature):
            asked.append((name, feature))
            return self

    def load_dataset(name, **more):
        asked.append((name, more))
        return Dataset(rows_of(pairs))

    library = SimpleNamespace(Audio=lambda decode: f"decode={decode}", load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", library)
    found = list(hub_pairs("someone/pairs", revision="main"))
    assert asked[0] == ("someone/pairs", {"split": "train", "streaming": True, "revision": "main"})
    assert asked[1] == ("speech", "decode=False")
    assert [pair.id for pair in found] == [f"pair-{i}" for i in range(4)]
    assert np.array_equal(found[3].units, read_units(pairs.units(3)))
    assert len(found[3].samples) == 17_600


def test_the_library_itself_gives_pairs(pairs):
    made = datasets.Dataset.from_list(list(rows_of(pairs)))
    made = made.cast_column("speech", datasets.Audio(decode=False))
    made.to_parquet(pairs.folder / "pairs.parquet")
    found = list(hub_pairs("parquet", data_files=str(pairs.folder / "pairs.parquet")))
    assert [pair.conversations for pair in found] == [entry["conversations"] for entry in pairs.entries]
    assert np.array_equal(found[0].units, read_units(pairs.units(0)))


def test_what_is_no_dataset_of_pairs_is_said(pairs, monkeypatch):
    with pytest.raises(ValueError, match="no column conversations, id; it has speech"):
        pair_of_row({"speech": {"bytes": b"", "path": None}})
    row = next(rows_of(pairs))
    with pytest.raises(ValueError, match="A recording of 3 bytes is no wav"):
        pair_of_row({**row, "speech": {"bytes": b"abc", "path": None}})
    assert len(pair_of_row({**row, "speech": {"bytes": None, "path": str(pairs.question(1))}}).samples) == 11_200
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install \"vocalnet\[data\]\""):
        next(hub_pairs("someone/pairs"))
