"""Ships a trained checkpoint: copies its components and decoders, writes card.json, training.json and the model card.

Every number in the card comes from a results JSON that `vocalnet eval` wrote, or from the stages' own records.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from vocalnet.checkpoint import HEADS_FOLDER
from vocalnet.files import atomic_path, write_json
from vocalnet.packing import STEP
from vocalnet.training.hub import LIBRARY, PIPELINE, front_matter

COMPONENTS = ("encoder", "adaptor", "llm", "talker", "flow", "hift", "speech_tokenizer")
MAX_HEADS_MB = 50  # of all further decoders together: a clone must stay quick
OTHER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
FACTS = {  # of the head of nano's card; no LLM was there before it, and its data set is made, not downloaded
    "license": "apache-2.0",
    "base_model": [],
    "datasets": ["nano-synthetic"],
    "language": ["en"],
    "library_name": LIBRARY,
    "pipeline_tag": PIPELINE,
}
CARD = """{front}
# nano

The embedded default of [VocalNet](https://github.com/SJTU-OmniAgent/VocalNet)'s reimplementation in this repository: a
small speech LLM ({parameters} parameters, {size}) that answers spoken English questions of a closed
domain in text and speech. It is the same classes as the published models with a smaller config, trained from nothing by
the recipes in train/ on synthetic speech.

## What it knows

Arithmetic, calendar and clock, capitals, opposites, plurals, spelling, counting, comparison, units, short definitions,
greetings, who it is, "repeat after me", and some questions that follow up the one before. Anything else gets
"{refusal}" It has no knowledge beyond that, and it has heard synthetic voices only: expect it to mishear people.

## Training

| stage | seconds | last losses |
|---|---|---|
{stages}

The stages are those of `train/configs/full.yaml`; a number says that a stage was run once more, mostly going on from
the weights before. Before the paper's two stages (align and talker) come those that make what others download: speech
tokenizer, vocoder, flow, the LLM, and the encoder, which is trained as a recogniser (encoder; pace: an adaptor on it;
drill: both together). Hear goes on with encoder and adaptor together on the LLM as align left it; answer, of
`train/configs/answer.yaml`, with a layer of that LLM; speak is a head start of the talker.
{heads}
Questions: flite, espeak-ng and festival, with random speed, pitch, room, noise and level. Answers: flite slt. Held out:
wordings with their values (8 % of the domain) and whole voices (flite rms, festival ked, two espeak-ng pairs). The head
of this card calls them nano-synthetic: `make nano` makes them anew, they are on no hub.
{note}
## Measured
{measured}
"""
HEADS = """
heads/NAME are further decoders ({names}), {size} more: each learned from fresh weights on
the same frozen model and answers, with the same steps and batches.
"""
MEASURED = """
By `{command}` on {date} ({cpu}, {threads} threads, commit {commit}, seed {seed}); the whole record is in
results/eval-nano.json.

| measure | value |
|---|---|
{rows}

| topic | right |
|---|---|
{topics}

| voice | right |
|---|---|
{voices}
"""


def training_record(runs: Path) -> dict[str, dict[str, Any]]:
    """Returns seconds, commit and last logged losses of every finished stage under `runs`, in the order they ended."""
    record: dict[str, dict[str, Any]] = {}
    paths = (*runs.glob("*/done.json"), *runs.glob(f"{HEADS_FOLDER}/*/done.json"))
    finished = [(json.loads(done.read_text()), done) for done in paths]
    for entry, done in sorted(finished, key=lambda pair: pair[0]["date"]):
        log = done.parent / "metrics.jsonl"
        if log.exists():
            rows = [json.loads(line) for line in log.read_text().splitlines()]
            dropped = ("step", "lr", "grad_norm", "elapsed_s")
            entry["steps"] = rows[-1]["step"] + 1
            entry["seconds"] = training_seconds(rows)
            entry["last"] = {key: round(value, 4) for key, value in rows[-1].items() if key not in dropped}
        record[entry["stage"]] = entry
    return record


def continued(earlier: dict[str, dict[str, Any]], record: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the record of a checkpoint and of the stages that were run on it; one that was run before gets a number.

    Further decoders are not gone on with: those of the earlier record are gone, as is what was not trained.
    """
    whole = {name: entry for name, entry in earlier.items() if not name.startswith(HEADS_FOLDER)}
    for stage, entry in record.items():
        if "steps" in entry or not earlier:
            runs = [re.fullmatch(rf"{re.escape(stage)}(\d*)", name) for name in whole]
            numbers = [int(run[1] or 1) for run in runs if run is not None]
            whole[f"{stage}{max(numbers) + 1}" if numbers else stage] = entry
    return whole


def training_seconds(rows: list[dict[str, Any]]) -> float:
    """Returns the seconds of a run from its log; `elapsed_s` starts anew with every resume."""
    total, last = 0.0, 0.0
    for row in rows:
        total += row["elapsed_s"] - last if row["elapsed_s"] >= last else row["elapsed_s"]
        last = row["elapsed_s"]
    return round(total, 1)


def model_card(folder: Path, results: Path, refusal: str) -> str:
    """Returns the model card of a shipped folder; without `results` it says that nothing was measured."""
    card = json.loads((folder / "card.json").read_text())
    training = json.loads((folder / "training.json").read_text())
    stages = "\n".join(
        f"| {name} | {entry['seconds']:.0f} | "
        + ", ".join(f"{key} {value:g}" for key, value in entry.get("last", {}).items())
        + " |"
        for name, entry in training.items()
    )
    report = json.loads(results.read_text()) if results.exists() else None
    return CARD.format(
        front=front_matter(FACTS, "nano", {f"results/{results.name}": report} if report else {}),
        parameters=card["parameters"],
        size=card["size"],
        refusal=refusal,
        heads=HEADS.format(names=", ".join(card["decoders"]), size=card["decoders_size"]) if "decoders" in card else "",
        note=f"\n{card['note']}\n" if card.get("note") else "",
        stages=stages,
        measured=_measured(report) if report else "\nNothing yet: run `make eval`.\n",
    )


def _measured(report: dict[str, Any]) -> str:
    def share(counts: dict[str, int]) -> str:
        return f"{counts['right']} of {counts['n']} ({100 * counts['right'] / counts['n']:.0f} %)"

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    split = report["right_by_voice_split"]
    rows = {
        "right answers, training voices": share(split["train"]),
        "right answers, held-out voices": share(split["heldout"]),
        "refusals of clips outside the domain": share(report["out_of_domain"]),
        "refusals of questions inside it": share({"right": report["refused_in_domain"], "n": report["n"]}),
        "WER of spoken answers against their own text (PocketSphinx)": percent(report["wer"]),
        "WER of the source voice on the same texts": percent(report["wer_source"]),
        "WER of its resynthesis from speech tokens": percent(report["wer_resynthesis"]),
        "DNSMOS P.808 of spoken answers": f"{report['dnsmos_p808']:.2f}",
        "DNSMOS P.808 of the source voice": f"{report['dnsmos_source']:.2f}",
        "peak memory while answering": f"{report['peak_memory_mb'] / 1000:.2f} GB",
        "real-time factor, speech to speech": f"{report['real_time_factor']:.2f}",
    }
    machine = report["machine"]
    return MEASURED.format(
        command="make eval",
        date=report["date"],
        cpu=machine["cpu"],
        threads=machine["torch_threads"],
        commit=report["commit"],
        seed=report["seed"],
        rows="\n".join(f"| {name} | {value} |" for name, value in rows.items()),
        topics="\n".join(f"| {name} | {share(counts)} |" for name, counts in report["right_by_topic"].items()),
        voices="\n".join(f"| {name} | {share(counts)} |" for name, counts in report["right_by_voice"].items()),
    )


def bundle(checkpoint: Path, runs: Path, folder: Path, note: str = "", decoders: Sequence[str] | None = None) -> None:
    """Copies a trained checkpoint into `folder` and writes its card.json; every file appears whole or not at all.

    Args:
        checkpoint: what the recipes made.
        runs: their records.
        folder: where the checkpoint is shipped.
        note: how the training differed from the recipes, for the model card.
        decoders: the further decoders that are shipped; None: all. Others are removed, since they were trained for
            another model.

    Raises:
        ValueError: a component has not been trained yet, or the further decoders are too large to ship.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started_from = checkpoint / "training.json"  # there if the first stage was to copy what was shipped before
    earlier = json.loads(started_from.read_text()) if started_from.exists() else {}
    if decoders is None:
        decoders = sorted(path.stem for path in (checkpoint / HEADS_FOLDER).glob("*.json"))
    heads = [f"{HEADS_FOLDER}/{name}.{kind}" for name in decoders for kind in ("safetensors", "json")]
    own = [*(f"{component}.safetensors" for component in COMPONENTS), *OTHER_FILES]
    for name in (*own, *heads):
        if not (checkpoint / name).is_file():
            how = "python -m train.run --only STAGE"
            raise ValueError(f"{checkpoint / name} does not exist. Train its stage first: {how}")
    n_heads_mb = sum((checkpoint / name).stat().st_size for name in heads) / 1e6
    if n_heads_mb > MAX_HEADS_MB:
        raise ValueError(f"The decoders have {n_heads_mb:.0f} MB, {MAX_HEADS_MB} at most. Choose some with --heads.")
    shutil.rmtree(folder / HEADS_FOLDER, ignore_errors=True)
    for name in (*own, *heads):
        (folder / name).parent.mkdir(exist_ok=True)
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(checkpoint / name, temporary)
    n_parameters = sum(_n_weights(folder / name) for name in own if name.endswith(".safetensors"))
    card = {
        "name": "nano",
        "licence": "Apache-2.0",
        "data": "synthetic speech: flite, espeak-ng, festival",
        "parameters": f"{n_parameters / 1e6:.1f} M",
        "size": f"{sum((folder / name).stat().st_size for name in own) / 1e6:.1f} MB",
        **({"decoders": list(decoders), "decoders_size": f"{n_heads_mb:.1f} MB"} if decoders else {}),
        **({"note": note} if note else {}),
    }
    write_json(folder / "card.json", card)
    write_json(folder / "training.json", continued(earlier, training_record(runs)))


def _n_weights(path: Path) -> int:
    """Returns how many numbers a safetensors file holds."""
    with safe_open(path, framework="pt") as file:
        own = [key for key in file.keys() if not key.endswith(STEP)]  # noqa: SIM118
        return sum(math.prod(file.get_slice(key).get_shape()) for key in own)
