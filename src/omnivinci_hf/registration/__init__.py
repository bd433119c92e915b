"""This module makes the package known: to Transformers' Auto classes, when somebody imports these, and to its own
classes, whose hooks it fills. Nothing of Transformers is patched.

Auto classes take classes, not names, and importing ours costs seconds, as importing the Auto classes does. So the
package imports neither: Python's import system tells when the Auto classes have been imported, and ours follow.
"""

import sys
import threading
from functools import partial
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader

from ..omnivinci.package_hooks_omnivinci import HOOKS, ModelCards, OriginalLayout


# The import of one of these modules calls for the registration: all Auto classes import the first, and the others have
# classes that write into a saved checkpoint which Auto class loads it.
TRIGGERS = {
    "transformers.models.auto.configuration_auto",
    "omnivinci_hf.omnivinci.feature_extraction_omnivinci",
    "omnivinci_hf.omnivinci.image_processing_omnivinci",
    "omnivinci_hf.omnivinci.video_processing_omnivinci",
}
WATCHED_PACKAGES = ("transformers", "omnivinci_hf")
_importing_threads: set[int] = set()


def register(imported: str | None = None) -> None:
    """Registers the classes now if the Auto classes are there already, else as soon as they are; safe to call again.

    The hooks are filled at once, since that costs nothing: so they work whichever class is imported first.

    Args:
        imported: the module whose import ends with this.
    """
    HOOKS.original_layout, HOOKS.model_cards = _original_layout, _model_cards
    if any(name == imported or _is_complete(sys.modules[name]) for name in TRIGGERS & sys.modules.keys()):
        import_module("omnivinci_hf.registration.auto_classes")
        # This is a new list, because other threads may be going through the old one.
        sys.meta_path = [finder for finder in sys.meta_path if not isinstance(finder, _ImportWatch)]
    elif not any(isinstance(finder, _ImportWatch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ImportWatch())


def _original_layout() -> OriginalLayout:
    from ..original_layout import loading

    return loading


def _model_cards() -> ModelCards:
    from ..hub import cards

    return cards


def _is_complete(module) -> bool:
    """Says whether a module was imported to its end; another thread that is importing it registers afterwards."""
    return not getattr(module.__spec__, "_initializing", False)


class _ImportWatch(MetaPathFinder):
    """This finder finds modules of both packages as Python does; its loader tells when the outermost is complete."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in WATCHED_PACKAGES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _TellingLoader(spec.loader.name, spec.loader.path)
        return spec


class _TellingLoader(SourceFileLoader):
    """This loader registers after the outermost import; in the midst of one, modules that are needed are half made."""

    def exec_module(self, module) -> None:
        thread = threading.get_ident()
        if thread in _importing_threads:
            self._execute(module)
            return
        _importing_threads.add(thread)
        try:
            self._execute(module)
            try:
                register(module.__name__)
            except (ImportError, RuntimeError):  # also that two wait for each other
                # another thread is in the midst of importing what this needs, and registers afterwards
                if _importing_threads == {thread}:
                    register(module.__name__)
        finally:
            _importing_threads.discard(thread)

    def _execute(self, module) -> None:
        super().exec_module(module)
        # Transformers puts lazy modules in the place of its packages. A thread that waited for this import goes on with
        # the module that it saw before (in CPython, `from package import name` does), and finds the names by this.
        lazy = sys.modules.get(module.__name__, module)
        if lazy is not module:
            module.__getattr__ = partial(getattr, lazy)
