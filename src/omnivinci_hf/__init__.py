"""OmniVinci for Hugging Face Transformers. Importing registers its classes with the Auto classes.

The names of `__init__.pyi` are imported when they are first used.
"""

import lazy_loader

from ._version import __version__ as __version__
from .registration import register
from .registration.tested_versions import warn_if_untested


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

warn_if_untested()
register()
