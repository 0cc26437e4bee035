"""The cache: loading and compiling, with what a process before this one found out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from onnxcam import loading
from onnxcam.cache.address import address, address_of_model, recipe_facts
from onnxcam.cache.packing import pack_classifier, pack_plan, unpack_classifier, unpack_plan
from onnxcam.cache.store import MOST_BYTES, Store, default_folder
from onnxcam.explainer import Plan, Program, Recipe, compile_program
from onnxcam.graph import Classifier
from onnxcam.graph.read import MAX_BYTES, read_model

T = TypeVar("T")


class Cache:
    """Loads and compiles, and keeps what comes out of it. Safe to call from several threads.

    What is kept is what is made of a model: its graph in the normal form, what was learnt about
    it, and the graphs that explain it, without the model's weights: these come from the user's
    file each time. Entries stand under a digest of the model, of every option and of the versions
    of what made them. Whatever goes wrong with the folder or an entry, the work is done anew.
    """

    def __init__(self, where: bool | str | os.PathLike[str], most: int = MOST_BYTES) -> None:
        """Keeps entries in a folder.

        Args:
            where: the folder; True for the one that ONNXCAM_CACHE names, else the user's cache
                folder; False: nothing is kept. A folder that others can write to is not used.
            most: bytes that all entries together may take.
        """
        folder = default_folder() if where is True else Path(where) if where else None
        self._store = None if folder is None else Store(folder, most)

    def load(self, source: loading.Source, **options: Any) -> Classifier:
        """As `onnxcam.load`."""
        if self._store is None or isinstance(source, Classifier):
            return loading.load(source, **options)
        started = time.time()
        path = Path(source) if isinstance(source, str | os.PathLike) else None
        read = read_model(source, options.get("max_bytes", MAX_BYTES))
        try:
            whole = address_of_model(read, path, self._store, started)
            key = address("classifier", whole, options)
        except (TypeError, OSError):
            key = ""  # an option that is no plain value, or sources that cannot be read
        name = path.name if path is not None else "model"
        own = {"name": name, "options": {**options, "probe": loading.probe}, "address": key}
        return self._classifier(
            key,
            lambda data: unpack_classifier(data, read, **own),
            lambda: replace(loading.load_read(read, **options), name=name, address=key),
        )

    def resized(self, classifier: Classifier, size: tuple[int, int]) -> Classifier:
        """As `Classifier.resized`."""
        if not classifier.address or size == classifier.image.size:
            return classifier.resized(size)
        key = address("resized", classifier.address, size)
        own = {"name": classifier.name, "options": classifier.options, "address": key}
        return self._classifier(
            key,
            lambda data: unpack_classifier(data, classifier.source, **own),
            lambda: replace(classifier.resized(size), name=classifier.name, address=key),
        )

    def program(self, classifier: Classifier, recipes: Sequence[Recipe]) -> Program:
        """As `compile_program`."""
        if self._store is None or not classifier.address:
            return compile_program(classifier, recipes)
        facts = [recipe_facts(what) for what in recipes]
        keys = {b: address("plan", classifier.address, facts, b) for b in (False, True)}

        def find(program: Program, blocks: bool) -> Plan:
            found = self._kept(keys[blocks], lambda data: unpack_plan(data, classifier))
            if found is not None:
                return found[0]
            form = program.form(blocks)
            about = {"way": program.way, "said": program.said}
            self._keep(keys[blocks], lambda: pack_plan(form.plan, classifier, form.views, about))
            return form.plan

        found = self._kept(keys[False], lambda data: unpack_plan(data, classifier))
        if found is None:
            program = compile_program(classifier, recipes)
            program.find = find
            return program
        plan, about = found
        if about["way"] == "literal":
            recipes = [replace(what, ablation="literal") for what in recipes]
        return Program(classifier, recipes, about["way"], tuple(about["said"]), find, {False: plan})

    def _classifier(
        self, key: str, read: Callable[[bytes], Classifier], make: Callable[[], Classifier]
    ) -> Classifier:
        found = self._kept(key, read)
        if found is None:
            found = make()
            self._keep(key, lambda: pack_classifier(found))
        return found

    def _kept(self, key: str, read: Callable[[bytes], T]) -> T | None:
        """What `read` makes of an entry; None where there is none, or a strange one."""
        data = self._store.get(key) if self._store is not None and key else None
        if data is None:
            return None
        try:
            return read(data)
        except Exception:  # whatever an entry provokes: it is made anew, and replaced
            return None

    def _keep(self, key: str, pack: Callable[[], bytes]) -> None:
        if self._store is None or not key:
            return
        try:
            data = pack()
        except (TypeError, ValueError, MemoryError):  # something that cannot be written down
            return
        self._store.put(key, data)
