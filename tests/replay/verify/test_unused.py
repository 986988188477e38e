"""Goldens nobody uses: found beside transcripts, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from running import CAPTURES, replay, write

from replay.verify.unused import find_unused


def family(folder: Path) -> Path:
    """A transcript with all that belongs to it."""
    path = write(folder / "stall.smtp")
    for name in ("stall.pcap", "stall.delayed.pcap", "stall.pcap.gz", "stall.toml", "README.md"):
        (folder / name).write_bytes(b"")
    return path


def found(*paths: Path) -> dict[str, str]:
    return {one.path.name: one.why for one in find_unused(paths)}


def test_what_belongs_to_a_transcript_is_used(tmp_path: Path) -> None:
    family(tmp_path / "a")
    assert found(tmp_path) == {}


def test_evidence_without_its_transcript_is_unused(tmp_path: Path) -> None:
    path = family(tmp_path / "a")
    write(path.with_name("other.smtp"))
    path.rename(path.with_name("stalls.smtp"))
    gone = found(tmp_path)
    assert set(gone) == {"stall.pcap", "stall.delayed.pcap", "stall.pcap.gz", "stall.toml"}
    assert gone["stall.delayed.pcap"] == "a capture without its transcript stall.smtp"


def test_what_a_killed_update_left_and_what_no_test_collects_is_unused(tmp_path: Path) -> None:
    path = family(tmp_path)
    path.with_name(".stall.smtp.x7_ab2cd").write_bytes(b"")
    path.with_name("relay.smtp").write_bytes(b"HELO relay\n")
    assert set(found(path)) == {".stall.smtp.x7_ab2cd", "relay.smtp"}


def test_a_folder_without_transcripts_is_nobodys_business(tmp_path: Path) -> None:
    for name in ("recipe.toml", "x.pcap"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".hidden").mkdir()
    assert found(tmp_path, tmp_path / "none" / "x.smtp") == {}


def test_the_command_line_lists_them_plays_nothing_and_says_so_by_its_status(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "x.smtp", "nonsense")
    assert replay("run", "--unused", tmp_path) == (0, "", "")
    path.with_name("y.pcap").write_bytes(b"")
    ran = replay("run", "--unused", tmp_path)
    line = f"{tmp_path / 'y.pcap'}: a capture without its transcript y.smtp\n"
    assert (ran.status, ran.out) == (1, line)


def test_nothing_on_file_is_unused() -> None:
    assert found(CAPTURES) == {}
