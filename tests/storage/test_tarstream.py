"""The tar reader: whatever honest tars write comes out, in pieces of any size; of anything else nothing gets by."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distribute_ssh.storage.tarstream import END, Member, TarError, TarReader

NAMES = [
    "tok/save/a",
    "tok/save/" + "x" * 90,
    "tok/save/" + "d/" * 60 + "deep",
    "tok/save/" + "n" * 255,
    "tok/save/ü\n;",
]
CONTENTS = {name: os.urandom(size) for name, size in zip(NAMES, (1, 512, 513, 40_000, 1023), strict=True)}


def read(stream: bytes, *, piece: int = 1 << 20, limit: int = 1 << 30) -> tuple[list[tuple[bytes, bytes]], TarReader]:
    """All files of a stream that comes in pieces of that size."""
    reader = TarReader(limit)
    files: list[tuple[bytes, bytearray]] = []
    for start in range(0, len(stream), piece):
        for event in reader.feed(stream[start : start + piece]):
            if isinstance(event, Member):
                files.append((event.name, bytearray()))
            else:
                files[-1][1].extend(event)
        if reader.ended:
            reader.rest += stream[start + piece :]
            break
    return [(name, bytes(data)) for name, data in files], reader


def packed(form: int, members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """An archive as Python's own writer makes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def file(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    """A regular file for it."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


GNU = packed(tarfile.GNU_FORMAT, [file(name, data) for name, data in CONTENTS.items()])


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("piece", [1, 7, 511, 512, 513, 4096, 1 << 20])
def test_every_format_is_read_in_pieces_of_any_size(form: int, piece: int) -> None:
    contents = {name: data for name, data in CONTENTS.items() if form != tarfile.USTAR_FORMAT or "nnnn" not in name}
    stream = packed(form, [file(name, data) for name, data in contents.items()])
    files, reader = read(stream + END + b"what follows", piece=piece)
    assert files == [(name.encode(), data) for name, data in contents.items()]
    assert reader.ended
    assert reader.rest == b"what follows"


@pytest.mark.parametrize("program", ["tar", "busybox"])
def test_what_real_programs_write_is_read(program: str, tmp_path: Path) -> None:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"left out: there is no {program}")
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(CONTENTS[name])
    command = [path, *(["tar"] if program == "busybox" else []), "-cf", "-", *NAMES]
    stream = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    files, reader = read(stream + END)
    assert files == [(name.encode(), CONTENTS[name]) for name in NAMES]
    assert reader.ended


def test_several_archives_behind_each_other_are_one_stream() -> None:
    files, reader = read(GNU + GNU + END)
    assert [name.decode() for name, _ in files] == NAMES * 2
    assert reader.ended


def test_a_size_in_base_256_is_understood() -> None:
    header = bytearray(file("tok/big", b"")[0].tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + (10 * 2**30).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 256)
    assert list(TarReader(1 << 62).feed(bytes(header))) == [Member(b"tok/big", 10 * 2**30)]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_devices_folders_and_pipes_never_come_out(kind: bytes) -> None:
    odd = tarfile.TarInfo("tok/save/a")
    odd.type, odd.linkname, odd.size = kind, "/etc/passwd", 0
    files, reader = read(packed(tarfile.GNU_FORMAT, [(odd, b""), file("tok/b", b"b")]) + END)
    assert files == [(b"tok/b", b"b")]
    assert reader.ended


def test_unknown_types_are_passed_over_with_their_data() -> None:
    odd = tarfile.TarInfo("tok/save/a")
    odd.type, odd.size = b"Z", 1000
    files, _ = read(packed(tarfile.GNU_FORMAT, [(odd, bytes(1000)), file("tok/b", b"b")]) + END)
    assert files == [(b"tok/b", b"b")]


@pytest.mark.parametrize("at", [0, 150, 130, 257])
def test_a_header_that_was_changed_is_refused(at: int) -> None:
    broken = bytearray(packed(tarfile.USTAR_FORMAT, [file("tok/a", b"x")]))
    broken[at] ^= 0x11
    with pytest.raises(TarError):
        read(bytes(broken) + END)


def test_a_stream_that_is_cut_short_never_ends() -> None:
    for length in range(0, len(GNU), 997):
        _, reader = read(GNU[:length])
        assert not reader.ended


def test_a_stream_longer_than_its_limit_is_refused() -> None:
    with pytest.raises(TarError, match="more comes"):
        read(GNU, limit=len(GNU) - 1)


def test_an_endless_name_is_refused() -> None:
    info = tarfile.TarInfo("tok/save/" + "x" * (2 << 20))
    with pytest.raises(TarError, match="too long"):
        read(packed(tarfile.GNU_FORMAT, [(info, b"")]))


@pytest.mark.parametrize("record", [b"5 path", b"99999 path=x\n", b"-3 path=x\n", b"0 p\n", b"xx", b"14 size=9e99\n\n"])
def test_a_broken_pax_header_is_refused(record: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = b"x", len(record)
    with pytest.raises(TarError):
        read(packed(tarfile.USTAR_FORMAT, [(info, record)]))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_anywhere_makes_an_error_or_a_file_of_another_name_or_size_but_nothing_else(data: st.DataObject) -> None:
    """The one thing a reader may do with rubbish is to refuse it or to tell of files; it never crashes or hangs."""
    stream = bytearray(
        data.draw(st.sampled_from([GNU, packed(tarfile.PAX_FORMAT, [file(n, c) for n, c in CONTENTS.items()])]))
    )
    for _ in range(data.draw(st.integers(1, 8))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    try:
        files, _ = read(bytes(stream) + END, piece=data.draw(st.sampled_from([333, 4096, 1 << 20])))
    except TarError:
        return
    assert all(isinstance(name, bytes) for name, _ in files)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000))
def test_rubbish_is_refused_or_read_to_its_end(data: bytes) -> None:
    try:
        read(data)
    except TarError:
        return
