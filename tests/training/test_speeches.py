"""Training data kept on disk: computed once, and again when anything that they depend on has changed."""

import pytest
import torch

from vocalnet.training.speeches import Speeches, cache_key, cached_speeches


def _speeches(n_dims=3):
    hidden = [torch.randn(n, n_dims).half() for n in (2, 0, 4)]
    return Speeches(hidden, [torch.arange(n, dtype=torch.int16) for n in (5, 1, 0)])


def test_speeches_are_gathered_once_for_each_key(tmp_path):
    path, calls = tmp_path / "folder" / "train.safetensors", []

    def gather():
        calls.append(_speeches())
        return calls[-1]

    first = cached_speeches(path, "a", gather)
    again = cached_speeches(path, "a", gather)
    assert len(calls) == 1
    for ours, theirs in ((first.hidden, again.hidden), (first.units, again.units)):
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))
    other = cached_speeches(path, "b", gather)
    assert len(calls) == 2
    assert torch.equal(cached_speeches(path, "b", gather).hidden[0], other.hidden[0])
    assert [file.name for file in path.parent.iterdir()] == ["train.safetensors"]


def test_nothing_is_kept_of_a_gathering_that_failed(tmp_path):
    def gather():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cached_speeches(tmp_path / "train.safetensors", "a", gather)
    assert not list(tmp_path.iterdir())


def test_the_key_follows_contents_and_settings(tmp_path):
    files = [tmp_path / name for name in ("llm", "adaptor")]
    for file in files:
        file.write_bytes(file.name.encode())
    keys = [cache_key(files, {"seed": 1}), cache_key(files, {"seed": 2})]
    files[1].write_bytes(b"trained again")
    keys.append(cache_key(files, {"seed": 1}))
    assert len(set(keys)) == 3
    with pytest.raises(ValueError, match=r"gone does not exist\. Train its stage first"):
        cache_key([tmp_path / "gone"], {})
