"""This module fetches the media that requests name by URLs, and leaves decoding them to the processor."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from transformers.utils import logging
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from ..omnivinci.media_reading_omnivinci import MediaError, ReadOptions, file_size
from ..omnivinci.media_sources_omnivinci import MediaSource, local_path
from .options import in_words_of_a_server
from .plugin import MODE


logger = logging.get_logger(__name__)


@MEDIA_CONNECTOR_REGISTRY.register(MODE)
class OmniVinciConnector(MediaConnector):
    """This connector returns media as bytes, within the server's `media_limits` and `timeout_sec`.

    http(s) URLs are fetched from public addresses, or where `--allowed-media-domains` is given from those hosts alone,
    whatever their addresses. Files are read below `--allowed-local-media-path`.
    """

    # of the server in this process; vLLM makes a connector for each prompt, and has no way to tell it more
    reading = ReadOptions()

    def fetch_image(self, image_url: str, **kwargs: Any) -> Any:
        """Fetches an image."""
        return self._fetch("image", image_url)

    async def fetch_image_async(self, image_url: str, **kwargs: Any) -> Any:
        """Fetches an image in a thread."""
        return await asyncio.to_thread(self._fetch, "image", image_url)

    def fetch_video(self, video_url: str, **kwargs: Any) -> Any:
        """Fetches a video."""
        return self._fetch("video", video_url)

    async def fetch_video_async(self, video_url: str, **kwargs: Any) -> Any:
        """Fetches a video in a thread."""
        return await asyncio.to_thread(self._fetch, "video", video_url)

    def fetch_audio(self, audio_url: str, **kwargs: Any) -> Any:
        """Fetches an audio clip."""
        return self._fetch("audio", audio_url)

    async def fetch_audio_async(self, audio_url: str, **kwargs: Any) -> Any:
        """Fetches an audio clip in a thread."""
        return await asyncio.to_thread(self._fetch, "audio", audio_url)

    def _fetch(self, modality: str, url: str) -> bytes:
        """Fetches one medium.

        Raises:
            ValueError: for `media_io_kwargs`, which nothing here obeys.
            MediaError: when there is no such medium, or it may not be fetched.
        """
        refuse_io_options(self.media_io_kwargs)
        if not isinstance(url, str):
            raise MediaError(f"The URL of {modality} must be a string, got a {type(url).__name__}.")
        name, scheme = f"{modality} {url[:100]!r}", url.partition(":")[0].lower()
        try:
            if scheme == "data":
                return MediaSource.of(modality, url, self.reading).data
            if scheme in ("http", "https"):
                return self._from_host(modality, name, url)
            if scheme == "file":
                return self._allowed_file(name, url)
        except MediaError as error:
            logger.info(str(error))  # with the addresses that a client is not told
            raise MediaError(in_words_of_a_server(str(error))) from error
        raise MediaError(f"{name} is no URL that a server reads: give a data:, http: or https: URL.")

    def _from_host(self, modality: str, name: str, url: str) -> bytes:
        try:
            host = urlsplit(url).hostname
        except ValueError as error:
            raise MediaError(f"{name} is no URL ({error}).") from error
        if not host:
            raise MediaError(f"{name} is no URL: write it as https://<host>/<path>.")
        if self.allowed_media_domains and host not in self.allowed_media_domains:
            raise MediaError(f"{name}: this server fetches from {', '.join(self.allowed_media_domains)} alone.")
        in_local_network = bool(self.allowed_media_domains)
        reading = replace(self.reading, allow_urls=True, allow_private_addresses=in_local_network)
        return MediaSource.of(modality, url, reading).data

    def _allowed_file(self, name: str, url: str) -> bytes:
        folder = self.allowed_local_media_path
        if folder is None:
            raise MediaError(
                f"{name}: this server reads no files of its own; start it with --allowed-local-media-path."
            )
        try:
            path = Path(local_path(name, url)).resolve()
            if folder not in path.parents:
                raise MediaError(f"{name} does not lie below the folder that --allowed-local-media-path names.")
            path.stat()  # an error of `file_size` would name what a link leads to
            size = file_size(name, str(path))
            self.reading.media_limits.check(name, "max_file_bytes", size, "bytes")
            self.reading.media_limits.check(name, "max_memory_bytes", size, "bytes")
            with open(path, "rb") as stream:
                return stream.read(size)
        except MediaError:
            raise
        except (OSError, ValueError) as error:  # too long, no permission, no file name
            raise MediaError(f"{name} cannot be read; check the path.") from error


def refuse_io_options(given: Mapping[str, Any] | None) -> None:
    """Refuses `media_io_kwargs`, of a server or of a request.

    Raises:
        ValueError: when there are any.
    """
    if any((given or {}).values()):
        raise ValueError(
            "`media_io_kwargs` say how vLLM decodes media, which OmniVinci's processor does here: give "
            "`mm_processor_kwargs`."
        )
