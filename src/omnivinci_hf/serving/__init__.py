"""This package serves OmniVinci with vLLM, which finds it by the entry point that calls `plugin.register`.

`plugin` and `options` import nothing of vLLM; the other modules do, and vLLM imports them when it serves OmniVinci.
"""
