"""The library's layers: imports go downward only, and each third-party package is known to few files.

The two tables below are the rules; ``violations`` applies them to source texts, and the last tests show that it can
fail.
Imports inside functions count too: a layer is what a file knows, not what it has loaded so far.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "VolumeSegmanticsLib"
SLICER = ("slicer", "vtk", "qt", "ctk", "vtkmodules", "PythonQt")

# fmt: off
LAYERS = (
    # 0: the standard library; these import before anything is pip-installed
    ("errors", "classes", "memory", "settings", "events", "card", "jobs", "messages", "process_tree", "launch",
     "ranks", "watch"),
    # 1: what 3D Slicer ships
    ("volume", "box", "io", "intensity", "views", "blocks", "boxes", "bricks", "stores", "unfinished", "slicing",
     "fusion", "constraints", "separate", "measure", "metrics", "orientation", "overview", "rarity", "room",
     "simulate", "sparse_labels"),
    # 2: networks
    ("augment", "checkpoint", "dataset", "devices", "distributed", "features", "models", "losses", "learning_rate",
     "prepare", "judging", "settling", "threads", "training", "prediction", "footprint", "big_prediction",
     "big_local_prediction",
     "slab_planning", "box_planning", "planning", "parts", "orders", "preview", "neighbourhoods", "local_fitting",
     "advice", "local_learning", "local_training", "local_prediction", "kept_features",
     "live_prediction", "live_strokes", "live_learning", "live"),
    # 3: composition
    ("tasks", "worker", "cli", "report", "scheduler", "team", "cluster", "api", "demo", "progress", "__main__"),
)
# fmt: on
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}
"""Module or sub-package (which gives its layer to all that it holds) to layer. The library's own ``__init__`` has
none: it may import the standard library, and everything else only when a name is first used."""


@dataclass(frozen=True)
class Package:
    """Who may import a third-party package: from which layer on, in which files, and whether only inside functions."""

    layer: int = 0
    files: tuple[str, ...] = ()
    inside_functions: bool = False

    def refuses(self, module: str, imported: Import) -> str:
        if (_layer(module) or 0) < self.layer:
            return f"it begins in layer {self.layer}"
        if self.files and not any(module == file or module.startswith(f"{file}.") for file in self.files):
            return f"only {' and '.join(self.files)} may know it"
        if self.inside_functions and not imported.deferred:
            return "it may be imported inside functions only"
        return ""


READER = Package(layer=1, files=("io",), inside_functions=True)
PACKAGES = {
    "numpy": Package(layer=1),
    "scipy": Package(layer=1),
    "SimpleITK": Package(layer=1),
    "nrrd": READER,
    "mrcfile": READER,
    "tifffile": READER,
    "imagecodecs": READER,
    "h5py": READER,
    "zarr": READER,
    "torch": Package(layer=2),
    "torchvision": Package(layer=2),
    "cv2": Package(layer=2, files=("augment",)),
    "albumentations": Package(layer=2, files=("augment",)),
    "segmentation_models_pytorch": Package(layer=2, files=("models.unet2d",)),
    "timm": Package(layer=2, files=("models.unet2d",)),
    "huggingface_hub": Package(layer=2, files=("models.unet2d",)),
    "safetensors": Package(layer=2, files=("models",)),
    "matplotlib": Package(layer=3, files=("report",)),
    "dask": Package(layer=3, files=("scheduler",)),
    "distributed": Package(layer=3, files=("scheduler",)),
}


@dataclass(frozen=True)
class Import:
    """One import: the full dotted name, its line, and whether it waits until a function runs (or a type checker)."""

    target: str
    line: int
    deferred: bool


def imports_of(module: str, source: str, modules: frozenset[str], *, is_package: bool = False) -> Iterator[Import]:
    """Find every import of a module of the library, at whatever depth; ``module`` is its name without the library's."""
    package = _full(module) if is_package else _full(module).rpartition(".")[0]
    for node, deferred in _walk(ast.parse(source)):
        for target in _targets(node, package, modules):
            yield Import(target, node.lineno, deferred)


def _walk(node: ast.AST, deferred: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    yield node, deferred
    deferred = deferred or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, deferred or (for_types and child in node.body))


def _targets(node: ast.AST, package: str, modules: frozenset[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        inside = [f"{origin}.{alias.name}" for alias in node.names]
        known = modules | {_full(name) for name in LAYER_OF}
        return sorted({name if name in known else origin for name in inside})
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")) and node.args:
        name = node.args[0]
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            return [importlib.util.resolve_name(name.value, package)]
    return []


def violations(sources: Mapping[str, str]) -> list[str]:
    """Say in sentences what breaks the rules; ``sources`` maps file names below the library to their texts."""
    names = {file: file.removesuffix(".py").replace("/", ".").removesuffix("__init__").rstrip(".") for file in sources}
    modules = frozenset(_full(name) for name in names.values())
    told, needs = [], {}
    for file, source in sources.items():
        module = names[file]
        if module and _layer(module) is None:
            told.append(f"{file} has no layer: give {module.split('.')[0]} a row in LAYERS.")
            continue
        found = list(imports_of(module, source, modules, is_package=file.endswith("__init__.py")))
        told += [f"{file}:{one.line} imports {one.target}: {why}." for one in found if (why := _refusal(module, one))]
        needs[_full(module)] = {one.target for one in found if one.target in modules} if module else set()
    return told + [f"{' imports '.join(loop)}: a loop." for loop in _loops(needs)]


def _refusal(module: str, imported: Import) -> str:
    top, _, rest = imported.target.partition(".")
    if not module and imported.deferred:
        return ""
    if top == LIBRARY:
        return _refusal_inside(module, rest)
    if top in sys.stdlib_module_names:
        return ""
    if top in SLICER:
        return "the library runs without Slicer"
    if top not in PACKAGES:
        return f"{top} has no row in PACKAGES: one file should know it"
    return PACKAGES[top].refuses(module, imported)


def _refusal_inside(module: str, other: str) -> str:
    if not module:
        return "the library's own __init__ loads its modules when they are first used"
    if not other:
        return ""  # the library itself, which is lazy
    ours, theirs = _layer(module), _layer(other)
    if theirs is None:
        return "there is no such module in LAYERS"
    return f"layer {ours} must not know layer {theirs}" if theirs > ours else ""


def _loops(needs: Mapping[str, set[str]]) -> list[list[str]]:
    """Every module that needs itself, with the shortest way round; each loop once."""
    loops: dict[frozenset[str], list[str]] = {}
    for start in needs:
        ways, seen = [[start]], set()
        while ways:
            way = ways.pop(0)
            for following in sorted(needs.get(way[-1], ())):
                if following == start:
                    loops.setdefault(frozenset(way), [*way, start])
                elif following not in seen:
                    seen.add(following)
                    ways.append([*way, following])
    return list(loops.values())


def _full(module: str) -> str:
    return f"{LIBRARY}.{module}" if module else LIBRARY


def _layer(module: str) -> int | None:
    return LAYER_OF.get(module.split(".")[0])


@pytest.fixture(scope="module")
def the_library() -> dict[str, str]:
    folder = ROOT / LIBRARY
    files = [file for file in folder.rglob("*.py") if "__pycache__" not in file.parts]
    return {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in sorted(files)}


def test_imports_go_downward_only_and_each_package_stays_in_its_files(the_library):
    wrong = violations(the_library)
    assert not wrong, "\n" + "\n".join(wrong)


def run_python(code: str, *options: str) -> str:
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_library_loads_nothing_but_the_standard_library():
    loaded = f"import sys; before = set(sys.modules); import {LIBRARY}; print(*set(sys.modules) - before)"
    tops = {name.split(".")[0] for name in run_python(loaded).split()}
    assert tops - set(sys.stdlib_module_names) == {LIBRARY}


def test_layer_0_imports_where_nothing_is_installed(the_library):
    present = [f"{LIBRARY}.{name}" for name in LAYERS[0] if f"{name}.py" in the_library]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import importlib; "
    run_python(code + f"[importlib.import_module(name) for name in {present}]", "-I", "-S")


def test_layers_0_and_1_do_not_load_torch(the_library):
    present = [file for file in the_library if _layer(file.removesuffix(".py").split("/")[0]) in (0, 1)]
    names = [f"{LIBRARY}.{file.removesuffix('.py').replace('/', '.')}" for file in present]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {names}]; print('torch' in sys.modules)"
    assert run_python(code) == "False"


def test_mypy_is_lenient_in_layers_2_and_3_only():
    tomllib = pytest.importorskip("tomllib")
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]["overrides"]
    lenient = {name for rule in rules if rule.get("disallow_untyped_defs") is False for name in rule["module"]}
    allowed = {_full(name) for layer in (2, 3) for name in LAYERS[layer]}
    assert {name.removesuffix(".*") for name in lenient} == allowed


def test_the_rules_allow_what_the_design_allows():
    assert not violations(
        {
            "__init__.py": "import importlib\ndef __getattr__(name):\n    from . import api\n    return api",
            "errors.py": "from __future__ import annotations\nimport json",
            "volume.py": "import numpy as np\nfrom numpy.typing import NDArray\nfrom .errors import InputError",
            "io/__init__.py": "from ..volume import Volume\ndef read():\n    from . import nifti",
            "io/nifti.py": "import SimpleITK\nfrom .. import errors\ndef read():\n    import nrrd",
            "augment.py": "import albumentations\nimport cv2\nimport torch",
            "models/__init__.py": "def create():\n    from .unet2d import create",
            "models/unet2d.py": "import segmentation_models_pytorch as smp\nfrom safetensors.torch import save_file",
            "api.py": "from . import __version__, errors, volume\nfrom .models.unet2d import create",
        }
    )


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        pytest.param({"helpers.py": ""}, "helpers.py has no layer", id="a module without a row"),
        pytest.param(
            {"volume.py": "from .training import fit", "training.py": ""}, "layer 1 must not know layer 2", id="up"
        ),
        pytest.param(
            {"volume.py": "def f():\n    from . import training", "training.py": ""},
            "volume.py:2 imports VolumeSegmanticsLib.training: layer 1 must not know layer 2",
            id="up, inside a function",
        ),
        pytest.param(
            {"io/nifti.py": "from ..models import unet2d", "models/unet2d.py": ""},
            "imports VolumeSegmanticsLib.models.unet2d: layer 1 must not know layer 2",
            id="up, out of a sub-package",
        ),
        pytest.param(
            {"views.py": "import VolumeSegmanticsLib.cli"}, "layer 1 must not know layer 3", id="up, by its full name"
        ),
        pytest.param(
            {"jobs.py": "from importlib import import_module\nimport_module('.tasks', __package__)"},
            "jobs.py:2 imports VolumeSegmanticsLib.tasks: layer 0 must not know layer 3",
            id="up, by import_module",
        ),
        pytest.param({"errors.py": "import numpy"}, "numpy: it begins in layer 1", id="numpy in layer 0"),
        pytest.param({"fusion.py": "import torch"}, "torch: it begins in layer 2", id="torch in layer 1"),
        pytest.param({"io/nhdr.py": "import nrrd"}, "inside functions only", id="a reader at import time"),
        pytest.param({"volume.py": "def f():\n    import nrrd"}, "only io may know it", id="a reader outside io"),
        pytest.param({"training.py": "import albumentations"}, "only augment may know it", id="a second file"),
        pytest.param({"models/local.py": "import segmentation_models_pytorch"}, "only models.unet2d", id="smp"),
        pytest.param({"tasks.py": "from safetensors import safe_open"}, "only models may know it", id="safetensors"),
        pytest.param({"metrics.py": "import matplotlib.pyplot"}, "matplotlib.pyplot: it begins", id="matplotlib"),
        pytest.param({"cli.py": "def f():\n    import slicer"}, "runs without Slicer", id="slicer"),
        pytest.param({"measure.py": "import skimage"}, "skimage has no row", id="a new package"),
        pytest.param({"volume.py": "from .gone import x"}, "no such module in LAYERS", id="a module that is not there"),
        pytest.param({"__init__.py": "from .errors import InputError"}, "when they are first used", id="eager init"),
        pytest.param(
            {"views.py": "from . import blocks", "blocks.py": "def f():\n    from .views import VIEWS"},
            "VolumeSegmanticsLib.views imports VolumeSegmanticsLib.blocks imports VolumeSegmanticsLib.views: a loop",
            id="two modules of one layer in a loop",
        ),
    ],
)
def test_a_broken_rule_is_told_in_a_sentence(sources, expected):
    wrong = violations(sources)
    assert len(wrong) == 1, wrong
    assert expected in wrong[0]
