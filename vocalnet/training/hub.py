"""A checkpoint as others find it on the hub: its folder, its model card, and the upload.

Every number of a card's model-index is copied from a results file, and says which one and where in it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, HfApi, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from vocalnet.checkpoint import describe, resolve
from vocalnet.files import atomic_path

FACTS = ("license", "base_model", "datasets", "language", "library_name", "pipeline_tag")
LIBRARY, PIPELINE = "vocalnet", "audio-to-audio"
FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
USE_SECTION = re.compile(r"\n## Use\n.*?(?=\n## |\Z)", re.DOTALL)
METRICS = {  # place in the results of `vocalnet eval`: type and name in the model-index
    "n": ("questions", "questions"),
    "right": ("right_answers", "right answers"),
    "right_by_voice_split.train.right": ("right_answers", "right answers, training voices"),
    "right_by_voice_split.heldout.right": ("right_answers", "right answers, held-out voices"),
    "wer": ("wer", "WER of the spoken answers against their own text"),
    "wer_source": ("wer", "WER of the source voice on the same texts"),
    "wer_resynthesis": ("wer", "WER of the source voice after its way through speech tokens"),
    "dnsmos_p808": ("dnsmos_p808", "DNSMOS P.808 of the spoken answers"),
    "dnsmos_source": ("dnsmos_p808", "DNSMOS P.808 of the source voice"),
    "real_time_factor": ("real_time_factor", "real-time factor, speech to speech"),
}
USE = """
## Use

With VocalNet installed (`pip install .` in a clone of its repository):

```python
{code}
```
{needs}"""
CODE = """from vocalnet import VocalNet

model = VocalNet.from_pretrained("{repo}")
answer = model.respond(audio="question.wav")
print(answer.text)"""
SPEAK = """

import soundfile

soundfile.write("answer.wav", answer.audio, answer.sample_rate_hz)"""


def front_matter(
    facts: Mapping[str, Any], name: str, reports: Mapping[str, Mapping[str, Any]], repo: str | None = None
) -> str:
    """Returns the YAML head of a model card.

    Args:
        facts: values of FACTS.
        name: what the model is called in its model-index.
        reports: results of `vocalnet eval`, by the file's name in the repository.
        repo: hub id under which the files of `reports` can be read.
    """
    results = [result for file, report in reports.items() for result in _eval_results(file, report, repo)]
    index: dict[str, Any] = {"model_name": name, "eval_results": results} if results else {}
    data = ModelCardData(**facts, **index)
    return f"---\n{data.to_yaml(line_break=chr(10))}\n---\n"


def _eval_results(file: str, report: Mapping[str, Any], repo: str | None) -> list[EvalResult]:
    found = []
    source: dict[str, Any] = {}
    if repo:
        source = {"source_name": file, "source_url": f"https://huggingface.co/{repo}/blob/main/{file}"}
    for key, (kind, title) in METRICS.items():
        value: Any = report
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found.append(
                EvalResult(
                    task_type=PIPELINE,
                    task_name="spoken question answering",
                    dataset_type=Path(file).stem,
                    dataset_name=f"the questions of {file}",
                    metric_type=kind,
                    metric_name=title,
                    metric_value=value,
                    metric_args={"file": file, "key": key},
                    **source,
                )
            )
    return found


def read_reports(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Returns results by their name in the repository of a model.

    Raises:
        ValueError: a file is missing or holds no results of `vocalnet eval`.
    """
    reports = {}
    for path in paths:
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"Cannot read the results {path} ({error}). Make them: vocalnet eval") from error
        if not isinstance(report, dict) or "right" not in report:
            raise ValueError(f"{path} holds no results of vocalnet eval.")
        reports[f"results/{path.name}"] = report
    return reports


def model_card(
    folder: Path, repo: str, reports: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any] | None = None
) -> str:
    """Returns the card of a checkpoint folder: that of its README.md with a complete head, and how to use it.

    Args:
        folder: a checkpoint.
        repo: its hub id.
        reports: as in `front_matter`.
        facts: values of FACTS that go before those of the README.md.

    Raises:
        ValueError: nothing tells the licence.
    """
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    head = FRONT.match(text)
    own = yaml.safe_load(head[1]) if head else {}
    name = repo.rpartition("/")[2]
    known = {
        "base_model": [],
        "datasets": [],
        "library_name": LIBRARY,
        "pipeline_tag": PIPELINE,
        **own,
        **(facts or {}),
    }
    missing = [fact for fact in FACTS if fact not in known]
    if missing:
        raise ValueError(f"Nothing tells the {' and '.join(missing)} of {folder}. Give --license and --language.")
    described = describe(folder)
    body = FRONT.sub("", text) or _body(name, described)
    front = front_matter({fact: known[fact] for fact in FACTS}, name, reports, repo)
    return front + USE_SECTION.sub("", body).rstrip() + "\n" + _use(repo, described)


def _use(repo: str, described: Mapping[str, Any]) -> str:
    is_speaking = described["sample_rate_hz"] > 0
    needs = "".join(f"\nIt needs one more thing: {need}\n" for need in described["missing"])
    return USE.format(code=CODE.format(repo=repo) + (SPEAK if is_speaking else ""), needs=needs)


def _body(name: str, described: Mapping[str, Any]) -> str:
    """Returns what a folder without a README tells of itself."""
    rows = "\n".join(f"| {part} | {size['parameters']:,} |" for part, size in described["components"].items())
    return (
        f"\n# {name}\n\nA VocalNet: a speech LLM that hears a question and answers in text and speech, decoder "
        f"{described['decoder']}.\n\n| component | parameters |\n|---|---|\n{rows}\n"
    )


def stage(
    model: str, repo: str, out: Path, results: Sequence[Path] = (), facts: Mapping[str, Any] | None = None
) -> Path:
    """Writes the folder that the hub gets: the checkpoint's files, its card, and the results that the card cites.

    Raises:
        ValueError: there is no such checkpoint, `repo` is no hub id, `out` holds something, or the card lacks facts.
    """
    if repo.count("/") != 1:
        raise ValueError(f"{repo!r} is no hub id. Give one such as user/name.")
    validate_repo_id(repo)
    folder = resolve(model)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds something already. Choose a new folder.")
    reports = read_reports(results)
    card = model_card(folder, repo, reports, facts)
    skipped = shutil.ignore_patterns(".*", "README.md", "__pycache__")
    shutil.copytree(folder, out, ignore=skipped, copy_function=_link_or_copy, dirs_exist_ok=True)
    (out / "results").mkdir(exist_ok=True)
    for path in results:
        shutil.copyfile(path, out / "results" / path.name)
    with atomic_path(out / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    return out


def _link_or_copy(source: str, to: str) -> str:
    """Links a file, which costs nothing however large it is, or copies it to another file system."""
    try:
        os.link(os.path.realpath(source), to)
    except OSError:
        shutil.copyfile(source, to)
    return to


def upload(folder: Path, repo: str, is_private: bool = False) -> str:
    """Uploads a folder as one commit; returns the address of the model.

    Raises:
        ValueError: not logged in, not allowed, or the hub cannot be reached.
    """
    api = HfApi()
    try:
        api.create_repo(repo, private=is_private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload by vocalnet push")
    except LocalTokenNotFoundError as error:
        raise ValueError("The hub does not know you. Run: hf auth login") from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"Cannot push to {repo}: {reason} With --dry-run --out FOLDER nothing is uploaded.") from error
    return f"https://huggingface.co/{repo}"
