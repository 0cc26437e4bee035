"""The cache: a second process neither loads nor compiles, and nothing stale or strange is taken."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import models
import onnxcam
from models import each_golden, images, tiny, weight
from onnxcam import Explainer
from onnxcam.cache import Cache, address, keep, packing
from onnxcam.cache.store import Store
from onnxcam.cli import main
from onnxcam.explainer import program as compiling
from onnxcam.explanation import Explanation
from onnxcam.graph import Classifier
from onnxcam.perturb import items
from onnxcam.resources import resource

X = images(2, 3, 8, 8)
KEYS = ["a" * 64, "b" * 64, "c" * 64]


def wide(scale: float = 1.0) -> onnx.ModelProto:
    """Weights beside the graph, and a head that keeps a stack of units."""
    weights = {
        "w": weight(16, 3, 3, 3) * scale,
        "v": weight(576, 20, seed=1),
        "o": weight(20, 40, seed=2),
    }
    return models.model(
        "p = Conv(x, w) a = Relu(p) f = Flatten(a) h = Gemm(f, v) r = Relu(h) y = Gemm(r, o)",
        {name: array.astype(np.float32) for name, array in weights.items()},
        "float[N,3,8,8] x",
        "float[N,40] y",
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The model as a file."""
    path = tmp_path / "wide.onnx"
    onnx.save(wide(), path)
    return path


def explain(source: Any, images: np.ndarray = X, target: Any = None, **options: Any) -> Explanation:
    """By a new explainer, as in a new process, with the cache on."""
    return Explainer(source, provider="cpu", cache=True, **options)(images, target)


def same(one: Explanation, other: Explanation) -> bool:
    """Whether two explanations are the same, to the last bit."""
    return all(
        np.array_equal(getattr(one, f.name), getattr(other, f.name))
        if isinstance(getattr(one, f.name), np.ndarray)
        else getattr(one, f.name) == getattr(other, f.name)
        for f in fields(one)
    )


class Work:
    """What was done anew: loads, and graphs composed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Counts from here on."""
        self.loads = self.forms = 0
        load, form = keep.loading.load_read, compiling.Form.__init__
        resized = Classifier.resized

        def loaded(*given: Any, **options: Any) -> Any:
            self.loads += 1
            return load(*given, **options)

        def anew(*given: Any) -> Any:
            self.loads += given[0].image.size != given[1]
            return resized(*given)

        def composed(*given: Any, **options: Any) -> None:
            self.forms += 1
            form(*given, **options)

        monkeypatch.setattr(keep.loading, "load_read", loaded)
        monkeypatch.setattr(Classifier, "resized", anew)
        monkeypatch.setattr(compiling.Form, "__init__", composed)

    def took(self) -> tuple[int, int]:
        """Loads and forms since this was asked last."""
        found = self.loads, self.forms
        self.loads = self.forms = 0
        return found


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


EVERY_KIND = [  # each need, each stack, both forms, both ways
    {"method": "ablation-cam"},
    {"method": "ablation-cam", "memory": 60_000},
    {"method": "ablation-cam", "ablation": "literal"},
    {"method": "ablation-cam", "weight": "slope", "units": [3, 1, 7]},
    {"method": "grad-cam", "smooth": "pca"},
    {"method": "score-cam"},
    {"method": "recipro-cam"},
    {"method": "saliency"},
    {"method": "fullgrad"},
    {"method": "integrated-gradients", "steps": 5},
    {"method": "smoothgrad", "samples": 3},
    {"method": "occlusion"},
    {"method": "rise", "masks": 20},
    {"method": "guided-grad-cam", "smooth": "tta"},
]


@pytest.mark.parametrize("options", EVERY_KIND, ids=str)
def test_the_second_time_nothing_is_made(file: Path, work: Work, options: dict[str, Any]) -> None:
    plain = Explainer(file, provider="cpu", **options)(X, [3, 1])
    work.took()
    first = explain(file, target=[3, 1], **options)
    assert work.took() >= (1, 1)
    second = explain(file, target=[3, 1], **options)
    assert work.took() == (0, 0)
    assert same(plain, first) and same(first, second)


def test_every_kind_of_items_is_among_them(file: Path, cache_folder: Path) -> None:
    """The table of makers is complete, and the test above keeps each of its rows."""
    kept = set()
    for options in EVERY_KIND:
        if options["method"] == "guided-grad-cam":
            continue
        explainer = Explainer(file, provider="cpu", **options)
        program = explainer.program()
        for form in (program.inline, *([program.blocked] if program.drops else [])):
            kept |= {stack.items.origin[0] for stack in form.stacks}
    assert kept == set(items.MAKERS)


def test_compare_is_kept(file: Path, work: Work) -> None:
    picture = np.full((8, 8, 3), 90, np.uint8)
    asked = {"methods": ["ablation-cam", "grad-cam", "saliency"], "weight": "slope"}
    maps = []
    for _ in range(2):
        work.took()
        explainer = Explainer(file, provider="cpu", cache=True, preset="imagenet")
        maps.append([one.map for one in explainer.compare(picture, **asked)])
    assert work.took() == (0, 0)
    assert all(np.array_equal(*pair) for pair in zip(*maps, strict=True))


def test_an_image_size_of_its_own_is_kept(tmp_path: Path, work: Work) -> None:
    path = tmp_path / "free.onnx"
    onnx.save(tiny(size="S"), path)
    large = images(1, 3, 20, 12)
    first = explain(path, large)
    assert work.took()[0] >= 2  # at the size it is loaded at, and at this one
    assert same(first, explain(path, large)) and work.took() == (0, 0)
    assert explain(path, images(1, 3, 12, 20)).map.shape != first.map.shape
    assert work.took() == (1, 1)


@pytest.mark.parametrize(
    ("options", "loads"),
    [
        ({"method": "grad-cam"}, 0),
        ({"layer": "p"}, 0),
        ({"units": [1, 2]}, 0),
        ({"units": [2, 1]}, 0),
        ({"weight": "slope"}, 0),
        ({"ablation": "literal"}, 0),
        ({"smooth": "pca"}, 0),
        ({"target": "top2"}, 0),
        ({"output": "r"}, 1),
        ({"image": "x", "output": "y"}, 1),
        ({"max_bytes": 1 << 20}, 1),
    ],
    ids=str,
)
def test_another_question_is_another_entry(
    file: Path, work: Work, options: dict[str, Any], loads: int
) -> None:
    explain(file)
    work.took()
    found = explain(file, **options)
    assert work.took() == (loads, 1)
    assert same(found, Explainer(file, provider="cpu", **{k: v for k, v in options.items()
                                                          if k != "target"})(
        X, options.get("target")))  # fmt: skip


def test_values_of_other_inputs_are_told_apart(tmp_path: Path, work: Work) -> None:
    proto = models.model(
        "c = Conv(x, w) m = Mul(c, s) a = Relu(m) g = GlobalAveragePool(a) y = Flatten(g)",
        {"w": weight(4, 3, 3, 3)},
        "float[N,3,8,8] x, float[1] s",
        "float[N,4] y",
    )
    path = tmp_path / "fed.onnx"
    onnx.save(proto, path)
    scores = []
    for value in ([1.0], np.array([2.0], np.float32), [1.0]):
        scores.append(explain(path, method="saliency", inputs={"s": value}).scores)
    assert work.took() == (2, 2)
    assert np.array_equal(scores[0], scores[2]) and not np.array_equal(scores[0], scores[1])


def test_another_content_is_another_entry(file: Path, work: Work) -> None:
    """Even under the same name, in the same size and with the same time of change."""
    explain(file)
    about = file.stat()
    onnx.save(wide(scale=2), file)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert file.stat().st_size == about.st_size
    work.took()
    found = explain(file)
    assert work.took() == (1, 1)
    assert same(found, Explainer(file, provider="cpu")(X))


def test_the_same_content_elsewhere_is_the_same_entry(
    file: Path, tmp_path: Path, work: Work
) -> None:
    first = explain(file)
    other = shutil.copy(file, tmp_path / "copy.onnx")
    work.took()
    found = explain(other)
    assert work.took() == (0, 0)
    assert np.array_equal(first.map, found.map) and found.model == "copy.onnx"
    assert explain(file.read_bytes()).model == "model" and work.took() == (0, 0)


def test_weights_in_a_second_file_count(tmp_path: Path, work: Work) -> None:
    path = tmp_path / "outside.onnx"
    save = {"save_as_external_data": True, "location": "outside.data", "size_threshold": 0}
    onnx.save(wide(), path, **save)
    explain(path)
    assert work.took() == (1, 1)
    explain(path)
    assert work.took() == (0, 0)
    data = bytearray((tmp_path / "outside.data").read_bytes())
    data[:4] = np.float32(7).tobytes()
    (tmp_path / "outside.data").write_bytes(data)
    found = explain(path)
    assert work.took() == (1, 1) and same(found, Explainer(path, provider="cpu")(X))


def test_weights_are_digested_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digested = []
    real = address._of_weights
    monkeypatch.setattr(address, "_of_weights", lambda w: digested.append(1) or real(w))
    for _ in range(2):  # changed a moment ago: it could change again without a sign of it
        explain(file)
    assert len(digested) == 2
    monkeypatch.setattr(address, "_JUST_NOW", -3600.0)
    for _ in range(3):
        explain(file)
    assert len(digested) == 3
    onnx.save(wide(scale=2), file)
    assert same(explain(file), Explainer(file, provider="cpu")(X))
    assert len(digested) == 4


def test_sources_and_versions_count(
    file: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that another onnxcam made are not taken."""
    explain(file)
    versions = address.versions()
    assert onnxcam.__version__ in versions and onnx.__version__ in versions
    work.took()
    monkeypatch.setattr(address, "versions", lambda: (*versions[:1], "other", *versions[2:]))
    explain(file)
    assert work.took() == (1, 1)


def test_facts_that_differ_have_other_addresses() -> None:
    facts: list[Any] = [
        *(None, 0, 0.0, False, "", "0", [], [0], [[0]], {}, {"a": 0}, {"a": [0]}),
        *(np.zeros(1, np.float32), np.zeros(1), np.zeros((1, 1)), np.zeros(2), np.float32(0)),
    ]
    assert len({address.address(fact) for fact in facts}) == len(facts)
    assert address.address({"a": 1, "b": (2,)}) == address.address({"b": [2], "a": 1})
    for odd in (object(), np.array([None]), {1, 2}):
        with pytest.raises(TypeError):
            address.address(odd)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.entry"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap(path: Path) -> None:
    """The content of an entry under the name of another one."""
    others = [other for other in entries(path.parent) if other != path]
    path.write_bytes(others[0].read_bytes())


def junk(path: Path) -> None:
    """With the right checksum."""
    Store(path.parent).put(path.stem, b"junk")


def foreign(path: Path) -> None:
    """An archive as ours, which says something else."""
    Store(path.parent).put(path.stem, packing.Packer({}, {}).packed({"model": {"weights": 3}}))


def pickled(path: Path) -> None:
    """An archive that would run code when it is read, if pickles were."""
    packer = packing.Packer({}, {})
    packer.arrays["array0"] = np.array([Trap()], object)
    Store(path.parent).put(path.stem, packer.packed({}))


class Trap:
    """Ends the test if it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.exit, ("a pickle was read",)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, swap, junk, foreign, pickled, empty])
def test_strange_entries_are_made_anew(
    file: Path, cache_folder: Path, work: Work, damage: Callable[[Path], None]
) -> None:
    first = explain(file)
    assert len(entries(cache_folder)) == 2
    work.took()
    for path in entries(cache_folder):
        damage(path)
        damaged = path.read_bytes()
        assert same(first, explain(file))
        assert sum(work.took()) == 1
        assert path.read_bytes() != damaged
    assert same(first, explain(file)) and work.took() == (0, 0)


def test_a_folder_in_the_place_of_an_entry(file: Path, cache_folder: Path, work: Work) -> None:
    first = explain(file)
    for path in entries(cache_folder):
        path.unlink()
        path.mkdir()
    work.took()
    assert same(first, explain(file)) and work.took() == (1, 1)


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", full)
        yield


@contextmanager
def below_a_file(folder: Path) -> Iterator[None]:
    folder.write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONNXCAM_CACHE", str(folder / "inside"))
        yield


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("the system lets this user write everywhere")
    folder.mkdir(mode=0o500)
    yield


@contextmanager
def open_to_others(folder: Path) -> Iterator[None]:
    if os.name != "posix":
        pytest.skip("the rights of folders are POSIX's")
    folder.mkdir()
    folder.chmod(0o777)
    yield


@pytest.mark.parametrize("state", [full_disk, below_a_file, read_only, open_to_others])
def test_it_works_without_a_usable_folder(
    file: Path, cache_folder: Path, work: Work, state: Any
) -> None:
    plain = Explainer(file, provider="cpu")(X)
    with state(cache_folder):
        for _ in range(2):
            work.took()
            assert same(plain, explain(file))
            assert work.took() == (1, 1)
    assert not cache_folder.is_dir() or not list(cache_folder.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="the rights of folders are POSIX's")
def test_entries_that_others_could_have_written_are_not_read(
    file: Path, cache_folder: Path, work: Work
) -> None:
    explain(file)
    assert cache_folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in entries(cache_folder))
    cache_folder.chmod(0o770)
    work.took()
    explain(file)
    assert work.took() == (1, 1)


def test_the_bound_is_kept_and_the_longest_unused_leaves_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", most=2500)
    for age, key in enumerate(KEYS[:2]):
        store.put(key, bytes(1000))
        os.utime(store.folder / f"{key}.entry", (100 + age, 100 + age))
    assert store.get(KEYS[0]) == bytes(1000)  # now the second one is the longest unused
    other = store.folder / "notes.txt"
    other.write_bytes(bytes(9000))
    store.put(KEYS[2], b"x" * 1000)
    assert [store.get(key) for key in KEYS] == [bytes(1000), None, b"x" * 1000]
    assert sum(path.stat().st_size for path in entries(store.folder)) <= 2500
    store.put(KEYS[1], bytes(2500))  # does not fit
    assert [store.get(key) for key in KEYS] == [bytes(1000), None, b"x" * 1000]
    assert other.stat().st_size == 9000


def test_what_a_killed_writer_left_is_taken_away(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old, new = (tmp_path / f"{KEYS[0]}.{n * 16}.tmp" for n in "01")
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (100, 100))
    store.put(KEYS[1], b"whole")
    assert not old.exists() and new.exists() and store.get(KEYS[1]) == b"whole"


WRITER = """
import sys
from pathlib import Path
from onnxcam.cache.store import Store
store = Store(Path(sys.argv[1]), most=150_000)
bad = 0
print("ready", flush=True)
sys.stdin.readline()
for turn in range(400):
    key = f"{turn % 7:064x}"
    store.put(key, key.encode() * (500 + turn % 3))
    held = store.get(key)
    bad += held is not None and held not in [key.encode() * (500 + n) for n in range(3)]
print(bad)
"""


def test_processes_write_at_once(tmp_path: Path) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", WRITER, str(tmp_path / "cache")]
    writers = [subprocess.Popen(command, **pipes) for _ in range(3)]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.communicate()[0] for writer in writers] == ["0\n"] * 3
    held = list((tmp_path / "cache").iterdir())
    assert 0 < sum(path.stat().st_size for path in held) <= 150_000
    assert all(path.suffix == ".entry" for path in held)


def test_explainers_run_at_once(file: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: explain(file), range(4)))
    assert all(same(found[0], one) for one in found[1:])


@each_golden()
def test_a_classifier_comes_back_as_it_was(
    goldens: Path, cache_folder: Path, name: str, file: str
) -> None:
    path = goldens / name / file
    first, second = (Cache(True).load(path) for _ in range(2))
    assert first.address == second.address != ""
    assert first.model is not second.model
    for field in fields(first):
        if field.name not in ("model", "source", "options"):
            assert getattr(first, field.name) == getattr(second, field.name), field.name
    assert first.model.proto == second.model.proto
    assert first.model.weights.keys() == second.model.weights.keys()
    for key, array in first.model.weights.items():
        again = second.model.weights[key]
        assert array.dtype == again.dtype and np.array_equal(array, again, equal_nan=True)
    assert second.layer().tensor == first.layer().tensor


@each_golden()
def test_goldens_explained_twice(goldens: Path, work: Work, name: str, file: str) -> None:
    x = models.golden_arrays(name, next(iter(models.golden_index()[name]["goldens"])))["x"]
    for method in ("ablation-cam", "grad-cam"):
        first = explain(goldens / name / file, x, method=method)
        work.took()
        assert same(first, explain(goldens / name / file, x, method=method))
        assert work.took() == (0, 0)


def test_entries_hold_no_weights_of_the_model(file: Path, cache_folder: Path) -> None:
    """Nor views of them in another order, which gradients need."""
    explain(file, method="saliency")
    held = b"".join(path.read_bytes() for path in entries(cache_folder))
    for tensor in wide().graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        for view in (array, array.T, array.transpose(1, 0, *range(2, array.ndim))):
            assert view.tobytes()[:64] not in held
    assert len(held) < 60_000


def test_the_library_keeps_nothing_unless_asked(file: Path, cache_folder: Path) -> None:
    Explainer(file, provider="cpu")(X)
    assert not cache_folder.exists()
    Explainer(file, provider="cpu", cache=cache_folder / "own")(X)
    assert len(entries(cache_folder / "own")) == 2


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "picture.png"
    Image.fromarray(np.arange(96 * 96 * 3, dtype=np.uint32).astype(np.uint8).reshape(96, 96, 3)
                    ).save(path)  # fmt: skip
    return path


@pytest.mark.parametrize("command", ["explain", "compare"])
def test_the_command_line_keeps_unless_told(
    picture: Path, cache_folder: Path, work: Work, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def run(*more: str) -> str:
        asked = [command, str(resource("demo_vgg.onnx")), str(picture), "--json", "--force"]
        done = CliRunner().invoke(main, [*asked, *more], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    plain = run("--no-cache")
    with monkeypatch.context() as patch:
        patch.setenv("ONNXCAM_CACHE", "")
        assert run() == plain
    assert not cache_folder.exists()
    assert run() == plain
    kept = entries(cache_folder)
    assert kept
    work.took()
    assert run() == plain and work.took() == (0, 0)
    assert run("--no-cache") == plain and work.loads == 0 < work.forms
    assert entries(cache_folder) == kept


def test_the_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import platformdirs

    from onnxcam.cache.store import default_folder

    monkeypatch.setenv("ONNXCAM_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.setenv("ONNXCAM_CACHE", "")
    assert default_folder() is None
    monkeypatch.delenv("ONNXCAM_CACHE")
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name, **_: tmp_path / name)
    assert default_folder() == tmp_path / "onnxcam"
