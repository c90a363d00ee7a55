"""The file of tokens: real files, a clock of one's own."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pytest

from sidecar.admin.token_file import LOOK_S, MAX_TOKENS, Access, TokenFile, access_of, read_tokens
from sidecar.admin.tokens import FILE_NAME, Holder, Role, TokenUnusable, digest_of

HASH = hashlib.sha256(b"hashed-token").hexdigest()


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def opened(tmp_path: Path, text: str, **environment: str) -> tuple[Access, Path, Clock]:
    clock = Clock()
    path = written(tmp_path / "tokens", text)
    named = {"PORTCULLIS_ADMIN_TOKENS_FILE": str(path), **environment}
    return access_of(named, tmp_path / "state", mono_s=clock), path, clock


def test_it_knows_each_token_by_its_name_and_role(tmp_path: Path) -> None:
    access, _, _ = opened(
        tmp_path,
        "\ufeff# who may what\n\n"
        f"grafana   viewer    sha256:{HASH}\n"
        "alice\toperator  a-token  # since May\r\n"
        "bob@example.org admin token#with#signs\n"
        "alice operator her-next-token\n",
    )

    accept = access.tokens.accept
    assert accept("hashed-token") == Holder("grafana", Role.VIEWER)
    assert accept("a-token") == accept("her-next-token") == Holder("alice", Role.OPERATOR)
    assert accept("token#with#signs") == Holder("bob@example.org", Role.ADMIN)
    for wrong in ("", HASH, f"sha256:{HASH}", "alice", "a-toke", "a-tokenx", "#", "since"):
        assert accept(wrong) is None


def test_it_is_the_operators_choice_and_no_token_is_made_beside_it(tmp_path: Path) -> None:
    access, _, _ = opened(tmp_path, "alice admin x\n")

    assert access.explicit
    assert access.token is None
    assert not (tmp_path / "state").exists()


def test_the_token_of_the_environment_is_taken_beside_it(tmp_path: Path) -> None:
    access, _, _ = opened(tmp_path, "alice viewer x\n", PORTCULLIS_ADMIN_TOKEN="given")

    assert access.tokens.accept("given") == Holder("admin", Role.ADMIN)
    assert access.tokens.accept("x") == Holder("alice", Role.VIEWER)
    assert access.token is not None
    assert access.token.secret == "given"


def test_without_a_file_there_is_one_token(tmp_path: Path) -> None:
    given = access_of({"PORTCULLIS_ADMIN_TOKEN": "given"}, tmp_path)
    made = access_of({"PORTCULLIS_ADMIN_TOKENS_FILE": ""}, tmp_path)

    assert (given.explicit, given.tokens.accept("given")) == (True, Holder("admin", Role.ADMIN))
    assert made.token is not None
    assert (made.explicit, made.token.path) == (False, tmp_path / FILE_NAME)
    assert made.tokens.accept(made.token.secret) == Holder("local", Role.ADMIN)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("alice", "expected NAME ROLE TOKEN"),
        ("alice admin", "expected NAME ROLE TOKEN"),
        ("alice admin SECRET more", "expected NAME ROLE TOKEN"),
        ("alice root SECRET", "one of viewer, operator, admin"),
        ("alice Admin SECRET", "one of viewer, operator, admin"),
        ("-alice admin SECRET", "a name is"),
        ("alïce admin SECRET", "a name is"),
        (f"{'a' * 64} admin SECRET", "a name is"),
        ("local admin SECRET", "the gate's own"),
        ("trigger viewer SECRET", "the gate's own"),
        ("alice admin SECRËT", "visible ASCII"),
        (f"alice admin {'x' * 1025}", "visible ASCII"),
        ("alice admin sha256:SECRET", "64 hexadecimal digits"),
        (f"alice admin sha256:{HASH}0", "64 hexadecimal digits"),
        (
            f"alice admin sha256:{hashlib.sha256(b'').hexdigest()}",
            "the hash of an empty text: set TOKEN, then",
        ),
        ("first viewer SECRET", "another role above"),
        ("alice admin first-token", "the token of first again"),
        (f"alice admin sha256:{hashlib.sha256(b'first-token').hexdigest()}", "the token of first again"),
    ],
)
def test_a_bad_line_is_refused_with_its_place_and_remedy(tmp_path: Path, line: str, says: str) -> None:
    path = written(tmp_path / "tokens", f"# names\nfirst operator first-token\n{line}\n")

    with pytest.raises(TokenUnusable) as refused:
        read_tokens(path)

    assert str(refused.value).startswith(f"{path}:3: ")
    assert says in str(refused.value)
    assert "SECR" not in str(refused.value)


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "tokens", "a\nb admin x\nc\n")

    with pytest.raises(TokenUnusable, match=r":1: .*\n.*:3: "):
        read_tokens(path)


@pytest.mark.parametrize("text", ["", "# nobody\n", "\n\n"])
def test_a_file_that_names_nobody_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TokenUnusable, match="names no token"):
        read_tokens(written(tmp_path / "tokens", text))


def test_there_is_a_bound(tmp_path: Path) -> None:
    lines = "".join(f"a{number} viewer token-{number}\n" for number in range(MAX_TOKENS + 1))

    with pytest.raises(TokenUnusable, match=str(MAX_TOKENS)):
        read_tokens(written(tmp_path / "tokens", lines))
    with pytest.raises(TokenUnusable, match="MiB"):
        read_tokens(written(tmp_path / "tokens", "#" * (2 << 20)))


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640, 0o644, 0o660])
def test_it_takes_what_kubernetes_mounts(tmp_path: Path, mode: int) -> None:
    data = tmp_path / "..2026"
    data.mkdir()
    written(data / "tokens", "alice admin x\n", mode)
    (tmp_path / "..data").symlink_to(data)
    (tmp_path / "tokens").symlink_to("..data/tokens")

    assert read_tokens(tmp_path / "tokens") == {digest_of("x"): Holder("alice", Role.ADMIN)}


@pytest.mark.parametrize("mode", [0o602, 0o646, 0o666])
def test_what_anybody_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(TokenUnusable, match="anybody may write"):
        read_tokens(written(tmp_path / "tokens", "alice admin x\n", mode))


def test_tokens_that_others_may_read_are_warned_of_hashes_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_tokens(written(tmp_path / "hashes", f"alice admin sha256:{HASH}\n", 0o644))
    read_tokens(written(tmp_path / "mine", "alice admin x\n", 0o640))
    assert caplog.records == []

    read_tokens(written(tmp_path / "tokens", "alice admin x\n", 0o644))
    assert "others may read" in caplog.text


def test_what_is_no_file_of_text_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"alice admin \xff")

    for name, says in (
        ("pipe", "no file"),
        ("bytes", "UTF-8"),
        ("gone", "cannot be read"),
        (".", "directory"),
    ):
        with pytest.raises(TokenUnusable, match=says):
            TokenFile(tmp_path / name, mono_s=Clock())


def test_a_change_is_taken_when_a_second_has_passed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    access, path, clock = opened(tmp_path, "alice admin first\n")
    written(tmp_path / "new", "alice admin second\n").rename(path)

    assert access.tokens.accept("first")
    clock.now_s += LOOK_S
    assert access.tokens.accept("second")
    assert access.tokens.accept("first") is None
    assert "1 admin tokens" in caplog.text


def test_a_bad_change_leaves_what_was_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    access, path, clock = opened(tmp_path, "alice admin first\n")

    written(path, "alice admin\n")
    for _ in range(3):
        clock.now_s += LOOK_S
        assert access.tokens.accept("first")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert f"{path}:1" in caplog.text

    path.unlink()
    clock.now_s += LOOK_S
    assert access.tokens.accept("first")

    written(path, "alice admin third\n")
    clock.now_s += LOOK_S
    assert access.tokens.accept("third")


def test_rights_that_were_put_right_are_noticed(tmp_path: Path) -> None:
    access, path, clock = opened(tmp_path, "alice admin first\n")

    written(path, "alice admin second\n", 0o602)
    clock.now_s += LOOK_S
    assert access.tokens.accept("second") is None, "anybody may write it"

    path.chmod(0o600)
    clock.now_s += LOOK_S
    assert access.tokens.accept("second")
    assert access.tokens.accept("first") is None


def test_no_secret_stays_in_memory_or_is_printed(tmp_path: Path) -> None:
    access, _, _ = opened(tmp_path, "alice admin correct-horse\n", PORTCULLIS_ADMIN_TOKEN="battery-staple")

    assert "battery-staple" not in repr(access)
    assert "correct-horse" not in repr(access)
    file = access.tokens._file
    assert isinstance(file, TokenFile)
    assert "correct-horse" not in repr(vars(file))
