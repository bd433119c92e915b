"""Folders that are whole or not there: what is kept, what is replaced, and at which moments a process may be killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from omnivinci_hf.hub import atomic_folders as module
from omnivinci_hf.hub.atomic_folders import unfinished_folder, whole_folder


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def read(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=["exchange", "two steps"])
def exchanging(request, monkeypatch):
    if request.param == "two steps":  # as on a system or a file system that cannot
        monkeypatch.setattr(module, "_exchange", lambda one, other: False)


def test_the_folder_appears_when_it_is_whole(tmp_path):
    with whole_folder(tmp_path / "deep" / "out") as folder:
        assert folder == unfinished_folder(tmp_path / "deep" / "out") and folder.name == "out"
        write(folder, a_txt="new")
        assert not (tmp_path / "deep" / "out").exists()
    assert read(tmp_path) == {"deep/out/a.txt": "new"}


def test_other_files_stay_where_they_are(tmp_path, exchanging):
    out = write(tmp_path / "out", a_txt="old", mine_txt="mine", notes__deep__b_txt="mine", model_safetensors="old")
    (out / "link").symlink_to("mine.txt")
    (out / "notes").chmod(0o700)
    with whole_folder(out, overwrite=True) as folder:
        write(folder, a_txt="new", notes__a_txt="new")
        write(out, late_txt="put there meanwhile")
    assert read(out) == {
        "a.txt": "new",
        "mine.txt": "mine",
        "link": "mine",
        "late.txt": "put there meanwhile",
        "notes/a.txt": "new",
        "notes/deep/b.txt": "mine",
    }
    assert os.listdir(tmp_path) == ["out"]


def test_nothing_else_stays_when_that_is_asked(tmp_path, exchanging):
    out = write(tmp_path / "out", a_txt="old", mine_txt="old")
    with whole_folder(out, overwrite=True, keep_others=False) as folder:
        write(folder, a_txt="new")
    assert read(tmp_path) == {"out/a.txt": "new"}


def test_what_came_meanwhile_stays_and_is_named(tmp_path):
    with pytest.raises(FileExistsError, match="has got a.txt, which stay"), whole_folder(tmp_path / "out") as folder:
        write(folder, a_txt="new")
        write(tmp_path / "out", a_txt="somebody's")
    with whole_folder(tmp_path / "second") as folder:
        write(folder, a_txt="new")
        write(tmp_path / "second", b_txt="somebody's")
    assert read(tmp_path) == {"out/a.txt": "somebody's", "second/a.txt": "new", "second/b.txt": "somebody's"}


def test_a_link_stays_a_link(tmp_path):
    write(tmp_path / "disk" / "real", a_txt="old")
    for name, target in (("link", "disk/real"), ("dangling", "disk/new")):
        (tmp_path / name).symlink_to(target)
        with whole_folder(tmp_path / name, overwrite=True) as folder:
            write(folder, a_txt="new")
        assert (tmp_path / name).is_symlink() and (tmp_path / target / "a.txt").read_text() == "new"
    assert sorted(os.listdir(tmp_path / "disk")) == ["new", "real"]


def test_an_error_leaves_what_was_there(tmp_path, exchanging, monkeypatch):
    out = write(tmp_path / "out", a_txt="old")
    with pytest.raises(KeyboardInterrupt), whole_folder(out, overwrite=True) as folder:
        write(folder, a_txt="new")
        raise KeyboardInterrupt
    assert read(tmp_path) == {"out/a.txt": "old"}
    monkeypatch.setattr(module, "_carry_over", lambda old, new: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"), whole_folder(out, overwrite=True) as folder:
        write(folder, a_txt="new")
    assert read(tmp_path) == {"out/a.txt": "old"}


def test_two_cannot_write_the_same_folder_at_once(tmp_path):
    with whole_folder(tmp_path / "out") as folder:
        write(folder, a_txt="first")
        with pytest.raises(FileExistsError, match="Another process is writing"), whole_folder(tmp_path / "out"):
            pass
    assert read(tmp_path) == {"out/a.txt": "first"}


def test_a_mount_point_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module.os.path, "ismount", lambda path: Path(path).name == "out")
    with (
        pytest.raises(OSError, match="out is a mount point, .* give a folder inside it"),
        whole_folder(tmp_path / "out"),
    ):
        pass
    assert not os.listdir(tmp_path)


# -- killed processes ------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from omnivinci_hf.hub import atomic_folders as module

moment, folder, exchanges = sys.argv[1:]
if exchanges == "False":
    module._exchange = lambda one, other: False

def dying(function, before):
    def wrapped(*arguments, **options):
        if before:
            os.kill(os.getpid(), signal.SIGKILL)
        function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    return wrapped

if moment != "writing":
    owner, name, when = moment.split()
    owner = {"module": module, "path": module.Path, "os": os, "shutil": module.shutil}[owner]
    calls = getattr(owner, name)
    count = int(when[0])
    def counted(*arguments, **options):
        global count
        count -= 1
        return (dying(calls, when.endswith("before")) if count == 0 else calls)(*arguments, **options)
    setattr(owner, name, counted)
with module.whole_folder(folder, overwrite=True) as new:
    (new / "a.txt").write_text("new")
    if moment == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
    (new / "b.txt").write_text("new")
"""
OLD = {"a.txt": "old", "b.txt": "old", "mine.txt": "mine"}
NEW = {"a.txt": "new", "b.txt": "new", "mine.txt": "mine"}
# (function that is called last, which call, before or after it), what is seen then, and whether folders are exchanged
MOMENTS = [
    ("writing", OLD, True),
    ("module _carry_over 1before", OLD, True),
    ("os link 1before", OLD, True),
    ("module _carry_over 1after", OLD, True),
    ("module _exchange 1before", OLD, True),
    ("module _exchange 1after", NEW, True),
    ("module _carry_over 2after", NEW, True),
    ("shutil rmtree 1after", NEW, True),
    ("path rename 2before", OLD, False),  # the first one finds that the old folder is there
    ("path rename 2after", None, False),  # between two steps, where the file system knows no exchange
    ("path rename 3after", NEW, False),
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kills as Linux does, and exchanges folders")
@pytest.mark.parametrize(("moment", "seen", "exchanges"), MOMENTS)
def test_a_killed_writer_leaves_the_old_folder_or_the_new_one(tmp_path, moment, seen, exchanges):
    out = write(tmp_path / "out", a_txt="old", b_txt="old", mine_txt="mine")
    done = subprocess.run([sys.executable, "-c", KILLED_ALONE, moment, str(out), str(exchanges)], capture_output=True)
    assert done.returncode == -9, done.stderr
    assert (read(out) if out.exists() else None) == seen
    # the next writer clears up, even when it fails itself
    with pytest.raises(KeyboardInterrupt), whole_folder(out, overwrite=True):
        raise KeyboardInterrupt
    assert read(out) == (seen or OLD)
    assert os.listdir(tmp_path) == ["out"]


# the module alone, without the imports of the package
KILLED_ALONE = KILLED.replace(
    "from omnivinci_hf.hub import atomic_folders as module",
    f"sys.path.insert(0, {str(Path(module.__file__).parent)!r})\nimport atomic_folders as module",
)
