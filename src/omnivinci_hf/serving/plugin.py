"""This module makes OmniVinci known to vLLM, by vLLM's public registries; nothing of vLLM is patched."""

ARCHITECTURE = "OmniVinciForConditionalGeneration"
MODE = "omnivinci"  # of the tokenizer, and with it of the renderer, which turns chats into prompts


def register() -> None:
    """Registers the model, its tokenizer, the renderer of chats, and the connector that fetches media.

    vLLM calls it in each of its processes, by the entry point in the group `vllm.general_plugins`; it is safe to call
    again. What is registered is imported when OmniVinci is served.
    """
    from vllm import ModelRegistry
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    import omnivinci_hf  # noqa: F401 (it registers the config and the processor with the Auto classes)

    place = __name__.rpartition(".")[0]
    ModelRegistry.register_model(ARCHITECTURE, f"{place}.model:OmniVinciVLLMModel")
    if MODE not in RENDERER_REGISTRY.renderers:
        TokenizerRegistry.register(MODE, f"{place}.tokenizer", "OmniVinciTokenizer")
        RENDERER_REGISTRY.register(MODE, f"{place}.renderer", "OmniVinciRenderer")
