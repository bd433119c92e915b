"""This module loads the tokenizer for vLLM, from either layout of the checkpoint."""

from functools import lru_cache
from typing import Any

from vllm.tokenizers.hf import get_cached_tokenizer

from ..omnivinci.processing_omnivinci import OmniVinciProcessor


@lru_cache(maxsize=4)
def load_processor(name_or_path: str, revision: str | None) -> OmniVinciProcessor:
    """Loads the processor of a checkpoint, once in a process; vLLM asks for it with each request."""
    return OmniVinciProcessor.from_pretrained(name_or_path, revision=revision)


def hub_options(config: Any) -> dict[str, Any]:
    """Returns the revision and the cache of a checkpoint on the Hub, as vLLM's whole configuration names them."""
    options = {"revision": config.model_config.revision, "cache_dir": config.load_config.download_dir}
    return {name: value for name, value in options.items() if value is not None}


class OmniVinciTokenizer:
    """This class stands for the tokenizer in vLLM's registry; what it builds is the tokenizer of the processor."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: Any,
        *args: Any,
        revision: str | None = None,
        download_dir: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Loads the tokenizer with the placeholders of media in it; the other options are vLLM's own for other models.

        The processor that reads media has a copy of its own, since vLLM uses both from several threads.
        """
        processor = OmniVinciProcessor.from_pretrained(str(name_or_path), revision=revision, cache_dir=download_dir)
        return get_cached_tokenizer(processor.tokenizer)
