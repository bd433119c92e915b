"""Nothing but the one file or the given bytes is opened; URLs only where allowed, and within limits."""

import base64
import http.server
import io
import os
import socket
import threading
import time

import pytest

from omnivinci_hf import MediaError, load_audio, load_image, load_video
from omnivinci_hf.omnivinci.media_sources_omnivinci import is_public
from tests.support.media_files import write_video


ALLOWED = {"allow_urls": True, "allow_private_addresses": True}


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("media") / "clip.mp4", range(10))


@pytest.fixture
def server(mp4):
    """Starts a web server on this machine, and returns its address, and the paths that were asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            asked.append(self.path)
            name = self.path.strip("/")
            data = mp4.read_bytes()
            if name.startswith("moved"):
                self.send_response(302)
                self.send_header("Location", {"moved": "/clip.mp4", "moved-loop": "/moved-loop"}.get(name, "ftp://x/y"))
                return self.end_headers()
            if name == "missing":
                return self.send_error(404)
            self.send_response(200)
            if name == "packed":
                self.send_header("Content-Encoding", "gzip")
            if name != "endless":
                length = {"short": len(data) + 100, "absurd": 10**15}.get(name, len(data))
                self.send_header("Content-Length", str(length))
            self.end_headers()
            try:
                if name == "slow":
                    for byte in data[:100]:
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.05)
                while name == "endless":
                    self.wfile.write(bytes(1 << 16))
                self.wfile.write(data)
            except OSError:
                pass  # the reader has gone

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", asked
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def port():
    """Opens a TCP port of this machine, and returns it and the connections that were made to it."""
    contacts = []
    listener = socket.create_server(("127.0.0.1", 0))

    def listen():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            contacts.append(connection)
            connection.close()

    threading.Thread(target=listen, daemon=True).start()
    yield listener.getsockname()[1], contacts
    listener.close()


@pytest.mark.parametrize("load", [load_video, load_audio, load_image])
def test_no_string_reaches_a_protocol(load, mp4, server, port, monkeypatch):
    monkeypatch.chdir(mp4.parent)
    (url, asked), (number, contacts) = server, port
    begin = time.monotonic()
    for text in (
        f"{url}/clip.mp4",
        f"HTTP{url[4:]}/clip.mp4",
        f"tcp://127.0.0.1:{number}",
        f"udp://127.0.0.1:{number}",
        f"rtp://127.0.0.1:{number}",
        f"rtsp://127.0.0.1:{number}/a",
        f"rtmp://127.0.0.1:{number}/a",
        f"async:tcp://127.0.0.1:{number}",
        f"cache:{url}/clip.mp4",
        f"tcp:127.0.0.1:{number}",
        f"concat:clip.mp4|{url}/clip.mp4",
        "concat:clip.mp4|clip.mp4",
        "cache:clip.mp4",
        "async:clip.mp4",
        "subfile,,start,0,end,99,,:clip.mp4",
        "file:clip.mp4",
        "pipe:0",
        "data:video/mp4;base64,",
    ):
        with pytest.raises(MediaError):
            load(text)
    assert not asked and not contacts and time.monotonic() - begin < 5


@pytest.mark.parametrize("load", [load_video, load_audio, load_image])
def test_no_content_reaches_a_protocol_or_another_file(load, mp4, server, port, tmp_path):
    (url, asked), (number, contacts) = server, port
    (tmp_path / "clip.mp4").write_bytes(mp4.read_bytes())
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n"
    begin = time.monotonic()
    for name, text in (
        ("a.m3u8", f"{head}{url}/clip.mp4\n#EXT-X-ENDLIST\n"),
        ("b.m3u8", f"{head}clip.mp4\n#EXT-X-ENDLIST\n"),
        ("c.mp4", f"{head}tcp://127.0.0.1:{number}\n#EXT-X-ENDLIST\n"),
        ("d.ffconcat", f"ffconcat version 1.0\nfile {url}/clip.mp4\n"),
        ("e.ffconcat", "ffconcat version 1.0\nfile clip.mp4\n"),
        ("f.sdp", f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {number} RTP/AVP 96\n"),
        ("g.mpd", f'<?xml version="1.0"?><MPD><Period><BaseURL>{url}/</BaseURL></Period></MPD>'),
        ("h.svg", f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}/clip.mp4"/></svg>'),
    ):
        (tmp_path / name).write_text(text)
        data_url = "data:video/mp4;base64," + base64.b64encode(text.encode()).decode()
        for source in (tmp_path / name, text.encode(), io.BytesIO(text.encode()), data_url):
            with pytest.raises(MediaError):
                load(source, timeout_sec=2)
    assert not asked and not contacts and time.monotonic() - begin < 10


# --- URLs


def test_urls_are_fetched_where_allowed_and_leave_nothing(server, mp4, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    url, asked = server
    clip = load_video(f"{url}/clip.mp4?token=1", num_frames=2, **ALLOWED)
    assert clip.total_frames == 10 and asked == ["/clip.mp4?token=1"] and os.listdir(tmp_path) == []
    with pytest.raises(MediaError, match="has no audio"):
        load_audio(f"{url}/clip.mp4", **ALLOWED)
    with pytest.raises(MediaError, match="of no known image format"):
        load_image(f"{url}/clip.mp4", **ALLOWED)


def test_urls_through_the_processor(server, processor):
    url, _ = server
    conversation = [{"role": "user", "content": [{"type": "video", "url": f"{url}/clip.mp4"}]}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    with pytest.raises(MediaError, match="or give `allow_urls=True`"):
        processor.apply_chat_template(conversation, **options)
    outputs = processor.apply_chat_template(conversation, processor_kwargs={**ALLOWED, "num_frames": 2}, **options)
    assert outputs["video_num_frames"].tolist() == [2]


def test_private_addresses_and_redirects_need_consent(server):
    url, asked = server
    for address in (url, url.replace("127.0.0.1", "localhost"), url.replace("127.0.0.1", "[::ffff:127.0.0.1]")):
        with pytest.raises(MediaError, match="is not a public address; if that is meant|cannot be fetched"):
            load_video(f"{address}/clip.mp4", allow_urls=True)
    assert not asked
    with pytest.raises(MediaError, match="redirects to .*clip.mp4'; give that, or `allow_redirects=True`"):
        load_video(f"{url}/moved", **ALLOWED)
    assert load_video(f"{url}/moved", num_frames=1, allow_redirects=True, **ALLOWED).total_frames == 10
    with pytest.raises(MediaError, match="redirects more than 5 times"):
        load_video(f"{url}/moved-loop", allow_redirects=True, **ALLOWED)
    with pytest.raises(MediaError, match="leads to 'ftp://x/y'; only http and https"):
        load_video(f"{url}/moved-away", allow_redirects=True, **ALLOWED)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("missing", {}, "the server answers 404"),
        ("short", {}, r"was cut off after \d+ of \d+ bytes"),
        ("absurd", {}, "above the limit max_memory_bytes"),
        ("endless", {"media_limits": {"max_memory_bytes": 10**6}}, "above the limit max_memory_bytes"),
        ("packed", {}, "comes packed as 'gzip'"),
        ("slow", {"timeout_sec": 0.5}, r"gave only \d+ bytes in 0.5"),
    ],
)
def test_bad_answers_of_a_server(server, name, options, message):
    begin = time.monotonic()
    with pytest.raises(MediaError, match=message):
        load_video(f"{server[0]}/{name}", **options, **ALLOWED)
    assert time.monotonic() - begin < 3


def test_servers_that_say_nothing_or_are_not_there():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        begin = time.monotonic()
        with pytest.raises(MediaError, match="gave only 0 bytes|cannot be fetched"):
            load_image(address, timeout_sec=0.5, **ALLOWED)
        assert time.monotonic() - begin < 3
    with pytest.raises(MediaError, match="cannot be fetched"):
        load_image(address, **ALLOWED)
    with pytest.raises(MediaError, match="cannot be fetched|leads to"):
        load_image("http://:80/x", **ALLOWED)
    with pytest.raises(MediaError, match=r"cannot be fetched: nobody.invalid has no address \(.*\); check the address"):
        load_image("http://nobody.invalid/x", **ALLOWED)


def test_which_addresses_are_public():
    assert is_public("93.184.216.34") and is_public("2606:4700::1111")
    for address in (
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "::1", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "255.255.255.255",
    ):  # fmt: skip
        assert not is_public(address), address
