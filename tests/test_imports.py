"""The house rules that a parser can hold: import direction, recipes without modules, no long files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    p for top in ("vocalnet", "train", "demo", "tests", "notebooks") for p in (ROOT / top).rglob("*.py")
) + sorted(ROOT.glob("*.py"))
MAX_LINES = 500

# A module may import its own rank and lower ones.
RANKS = (
    {
        "vocalnet.config",
        "vocalnet.tokens",
        "vocalnet.files",
        "vocalnet.provenance",
        "vocalnet.events",
        "vocalnet.graphs",
        "vocalnet.packing",
        "vocalnet.shards",
        "vocalnet.published",
        "vocalnet.threads",
    },
    {"vocalnet.audio", "vocalnet.masks"},
    {
        "vocalnet.encoder",
        "vocalnet.adaptor",
        "vocalnet.llm",
        "vocalnet.experts",
        "vocalnet.decoder",
        "vocalnet.vocoder",
    },
    {"vocalnet.model", "vocalnet.checkpoint", "vocalnet.released"},
    {"vocalnet.session", "vocalnet.attention", "vocalnet.metrics", "vocalnet.run_reader", "vocalnet.runs"},
    {
        "vocalnet",
        "vocalnet.evaluation",
        "vocalnet.bench",
        "vocalnet.benchmarks",
        "vocalnet.grid",
        "vocalnet.grids",
        "vocalnet.lab",
        "vocalnet.orderings",
        "vocalnet.report",
        "vocalnet.sounding",
        "vocalnet.streaming",
        "vocalnet.data",
        "vocalnet.training",
        "vocalnet.nano",
    },
    {"vocalnet.__main__", "vocalnet.commands"},
    {"train", "demo"},
    {"app", "tests", "notebooks"},
)
FORBIDDEN = {"vocalnet": {"gradio", "matplotlib", "train", "demo"}, "train": {"demo"}, "demo": {"train"}}
ALLOWED = (
    ("vocalnet.__main__", "demo"),  # the command `vocalnet demo` opens the app
    ("vocalnet.commands.data", "demo"),  # `vocalnet data stats --figure` draws
    ("vocalnet.commands.stream", "demo"),  # `vocalnet stream --repeats` asks the page's examples
    ("vocalnet.model", "vocalnet.session"),  # the facade's model.session(), imported when it is called
)


def module_name(path: Path) -> str:
    """vocalnet/metrics/wer.py -> vocalnet.metrics.wer"""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str, is_package: bool) -> list[str]:
    """Full dotted names of all imports, those inside functions too."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            found += [f"{base}.{alias.name}" for alias in node.names]
    return found


def rank(name: str) -> int | None:
    """The rank of the longest known prefix; None for other people's packages."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        for number, names in enumerate(RANKS):
            if ".".join(parts[:n]) in names:
                return number
    return None


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one module."""
    own, top, wrong = rank(module), module.split(".")[0], []
    for name in imports(ast.parse(source), module, is_package):
        target = name.split(".")[0]
        if any(module == importer and f"{name}.".startswith(f"{allowed}.") for importer, allowed in ALLOWED):
            continue
        if target == "torchaudio":
            wrong.append(f"{module} imports torchaudio")
        if target in FORBIDDEN.get(top, ()):
            wrong.append(f"{module} imports {target}")
        other = rank(name)
        if own is not None and other is not None and other > own:
            wrong.append(f"{module} imports {name}, which stands above it")
    return wrong


def defines_model_code(tree: ast.AST) -> list[str]:
    """Modules and losses defined or computed in a file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base) for base in node.bases]
            found += [f"class {node.name}({base})" for base in bases if base.endswith(("Module", "Model"))]
        if isinstance(node, ast.FunctionDef) and "loss" in node.name.lower():
            found.append(f"def {node.name}")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            owner, _, name = called.rpartition(".")
            is_torch_loss = owner in {"F", "nn", "functional", "torch.nn", "nn.functional", "torch.nn.functional"}
            if is_torch_loss and (name.endswith(("_loss", "Loss")) or name in {"cross_entropy", "kl_div", "mse"}):
                found.append(called)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_one_way(path):
    assert faults(path.read_text(), module_name(path), path.name == "__init__.py") == []


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_every_module_of_the_package_has_a_rank():
    tops = {".".join(module_name(p).split(".")[:2]) for p in SOURCES if p.is_relative_to(ROOT / "vocalnet")}
    assert {name for name in tops if not any(name in names for names in RANKS)} == set()


def test_recipes_define_no_module_and_no_loss():
    for path in (ROOT / "train").rglob("*.py"):
        assert defines_model_code(ast.parse(path.read_text())) == [], path


def test_requirements_have_no_torchaudio():
    for name in ("requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        assert "torchaudio" not in (ROOT / name).read_text()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vocalnet.audio", "from vocalnet.session import Session"),
        ("vocalnet.audio", "from vocalnet import load"),
        ("vocalnet.audio", "from .session import Session"),
        ("vocalnet.metrics.wer", "def f():\n    from vocalnet.evaluation import evaluate"),
        ("vocalnet.session", "import gradio as gr"),
        ("vocalnet.training.domain", "import train.run"),
        ("train.run", "from demo import ui"),
        ("demo.ui", "import train"),
        ("vocalnet.audio", "import torchaudio"),
    ],
)
def test_the_rules_can_fail(module, source):
    assert faults(source, module)


def test_the_rules_allow_the_right_direction():
    assert faults("from vocalnet.audio import load_audio\nfrom ..files import write_json", "vocalnet.metrics.asr") == []
    assert faults("import demo.ui", "vocalnet.__main__") == []


@pytest.mark.parametrize(
    "source",
    ["class A(nn.Module): pass", "def my_loss(x): return x", "y = F.cross_entropy(a, b)", "c = torch.nn.CTCLoss()"],
)
def test_the_recipe_rule_can_fail(source):
    assert defines_model_code(ast.parse(source))
