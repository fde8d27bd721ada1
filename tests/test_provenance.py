"""The commit that a measurement names: marked where the code differs from it."""

from __future__ import annotations

import subprocess

from vocalnet import provenance


def test_new_results_are_no_change_of_the_code(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e", *arguments], check=True)

    (tmp_path / "results").mkdir()
    for path in (tmp_path / "code.py", tmp_path / "results" / "bench.json"):
        path.write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "both")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    clean = provenance.code_version()
    assert len(clean) == 12
    (tmp_path / "results" / "bench.json").write_text("2")
    (tmp_path / "untracked.py").write_text("3")
    assert provenance.code_version() == clean
    (tmp_path / "code.py").write_text("2")
    assert provenance.code_version() == f"{clean}-dirty"
