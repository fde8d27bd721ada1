"""vocalnet plan: the memory of a fine-tuning run before it starts; vocalnet bench-training: the time of a step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vocalnet.commands.console import AsJson, show

OutJson = Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")]


def plan(
    stage: Annotated[int, typer.Option(help="1: speech to text, 2: speech.")] = 1,
    method: Annotated[str | None, typer.Option(help="lora, dora, qlora, full, lisa, experts; stage 2: full.")] = None,
    llm: Annotated[
        str, typer.Option(help="A preset of `vocalnet bench`, nano, or a checkpoint folder.")
    ] = "vocalnet-1b",
    batch: Annotated[int, typer.Option(help="Samples at once on one device.", min=1)] = 4,
    devices: Annotated[int, typer.Option(help="GPUs.", min=1)] = 1,
    sharding: Annotated[str, typer.Option(help="none (one GPU, DDP), fsdp or zero3.")] = "none",
    dtype: Annotated[str, typer.Option(help="Of the frozen weights.")] = "bfloat16",
    bf16: Annotated[bool, typer.Option(help="Autocast.")] = True,
    checkpointing: Annotated[bool, typer.Option(help="Compute activations again instead of keeping them.")] = False,
    optimizer: Annotated[str, typer.Option(help="As in the settings.")] = "adamw_torch",
    audio_s: Annotated[float, typer.Option(help="Seconds of a question.")] = 10.0,
    answer: Annotated[int, typer.Option(help="Text tokens of an answer.")] = 120,
    speech: Annotated[int, typer.Option(help="Speech tokens of an answer, 25 a second.")] = 750,
    check: Annotated[bool, typer.Option("--check", help="Measure six small runs instead.")] = False,
    device: Annotated[str, typer.Option(help="--check: where, cpu or cuda.")] = "cpu",
    out: OutJson = None,
    as_json: AsJson = False,
) -> None:
    """Says how many bytes a fine-tuning run takes on each device; --check holds that against measured runs."""
    from vocalnet.files import check_writable, write_json
    from vocalnet.training import plan as planner
    from vocalnet.training.plan_check import check as measured
    from vocalnet.training.settings import Settings

    if out is not None:
        check_writable(out)
    if check:
        record: dict[str, Any] = measured(device=device)
    else:
        settings = Settings(
            stage=stage,
            method=method or ("lora" if stage == 1 else "full"),
            data="",
            output="",
            model=llm,
            batch_size=batch * devices,
            batch_per_device=batch,
            dtype=dtype,
            bf16=bf16,
            gradient_checkpointing=checkpointing,
            optimizer=optimizer,
        )
        shape = planner.Shape(audio_s, planner.Shape.prompt, answer, speech)
        record = planner.plan(_config(llm), settings, shape, devices, sharding).to_dict()
    if out is not None:
        write_json(out, record)
    show(record, as_json, text=_checked_text(record) if check else _text(record))
    if check and record["worst"] > record["bound"]:
        raise ValueError(
            f"A plan is {100 * record['worst']:.0f} % from what was measured; {100 * record['bound']:.0f} are allowed."
        )


def _config(llm: str) -> Any:
    """Returns the sizes of a preset or a checkpoint."""
    from vocalnet.bench import PRESETS
    from vocalnet.checkpoint import read_values, resolve
    from vocalnet.config import VocalNetConfig, from_dict

    if llm in PRESETS:
        return PRESETS[llm]
    values = read_values(resolve(llm))
    if values["model_type"] != VocalNetConfig.model_type:
        raise ValueError(f"{llm} is in a published layout; plan with one of the presets: {', '.join(PRESETS)}.")
    return from_dict(VocalNetConfig, values, llm)


def _text(record: dict[str, int]) -> str:
    amounts = {name: value for name, value in record.items() if not name.startswith("n_")}
    lines = [f"{name:12} {value / 1e9:8.2f} GB" for name, value in amounts.items()]
    return "\n".join([*lines, f"{record['n_trained'] / 1e6:,.1f} of {record['n_weights'] / 1e6:,.1f} M weights train"])


def _checked_text(record: dict[str, Any]) -> str:
    return "\n".join(
        f"{cell['case']:30} planned {cell['planned'] / 1e6:7.0f} MB, measured {cell['measured'] / 1e6:7.0f} MB, "
        f"{100 * cell['error']:+.1f} %"
        for cell in record["cells"]
    )


def bench_training(
    sizes: Annotated[str, typer.Option(help="nano, or a preset of `vocalnet bench`.")] = "nano",
    repeats: Annotated[int, typer.Option(help="Steps of each way of building masks.", min=1)] = 5,
    out: OutJson = None,
    as_json: AsJson = False,
) -> None:
    """Times a step of stage 2 and its masks, beside masks built sample by sample."""
    from dataclasses import replace

    from vocalnet.files import check_writable, write_json
    from vocalnet.training.step_bench import bench_step

    if out is not None:
        check_writable(out)
    talker = _config(sizes).talker
    if talker is None:
        raise ValueError(f"{sizes} has no talker to train.")
    record = bench_step(replace(talker, dropout=0.0), sizes, repeats)
    if out is not None:
        write_json(out, record)
    lines = [
        f"{cell['masks']:6} {cell['step_s']:8.3f} s a step, masks {100 * cell['mask_share']:.2f} %, "
        f"{cell['tokens_per_s']:.0f} tokens/s"
        for cell in record["cells"]
    ]
    show(record, as_json, text="\n".join([*lines, f"operations of the masks: {record['mask_operations']}"]))
