"""Tokens in the environment and in real files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sidecar.admin.tokens import (
    FILE_NAME,
    Holder,
    Role,
    Token,
    Tokens,
    TokenUnusable,
    admin_token,
    digest_of,
    read_token,
)


def test_it_accepts_each_of_its_tokens_and_nothing_else() -> None:
    tokens = Tokens(["first", "second"])

    assert tokens.accept("first")
    assert tokens.accept("second")
    for wrong in ("", "firs", "firstt", "FIRST", "third", "f\u00efrst", "\udcff"):
        assert not tokens.accept(wrong)


def test_it_accepts_nothing_without_tokens() -> None:
    assert not Tokens([]).accept("")


def test_nothing_is_no_token_even_where_somebody_hashed_it() -> None:
    class Hashed:
        def digests(self) -> Mapping[bytes, Holder]:
            return {digest_of(""): Holder("nobody", Role.ADMIN)}

    assert Tokens([""], Hashed()).accept("") is None


def test_it_does_not_keep_the_secret() -> None:
    tokens = Tokens(["correct-horse"])

    kept = [getattr(tokens, slot) for slot in tokens.__slots__]
    assert "correct-horse" not in repr(kept)
    assert "correct-horse" not in repr(Token("correct-horse"))


def test_the_environment_wins_and_no_file_is_made(tmp_path: Path) -> None:
    token = admin_token({"PORTCULLIS_ADMIN_TOKEN": "given"}, tmp_path / "state")

    assert (token.secret, token.path, token.made, token.explicit) == ("given", None, False, True)
    assert not (tmp_path / "state").exists()


def test_it_makes_a_private_file_once(tmp_path: Path) -> None:
    made = admin_token({}, tmp_path / "state")
    found = admin_token({"PORTCULLIS_ADMIN_TOKEN": ""}, tmp_path / "state")

    path = tmp_path / "state" / FILE_NAME
    assert made.made
    assert not made.explicit
    assert len(made.secret) >= 32
    assert found == Token(made.secret, path, made=False)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [FILE_NAME]


def test_it_is_private_whatever_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        admin_token({}, tmp_path / "state")
    finally:
        os.umask(mask)

    assert (tmp_path / "state" / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_makers_at_the_same_time_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda _: admin_token({}, tmp_path), range(32)))

    assert len({token.secret for token in tokens}) == 1
    assert sum(token.made for token in tokens) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE_NAME]


def test_reading_makes_nothing(tmp_path: Path) -> None:
    assert read_token({}, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / FILE_NAME
    path.write_text("secret\n")
    path.chmod(mode)

    with pytest.raises(TokenUnusable, match="0600"):
        admin_token({}, tmp_path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("secret\n")
    target.chmod(0o600)
    (tmp_path / FILE_NAME).symlink_to(target)

    with pytest.raises(OSError, match="symbolic link"):
        admin_token({}, tmp_path)


@pytest.mark.parametrize("text", ["", "\n", "two words\n", "two\nlines\n", "x" * 2_000, "naïve", " padded"])
def test_a_token_that_no_header_could_carry_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(text)
    path.chmod(0o600)

    with pytest.raises(TokenUnusable, match=FILE_NAME):
        admin_token({}, tmp_path)
    if text:
        with pytest.raises(TokenUnusable, match="PORTCULLIS_ADMIN_TOKEN"):
            admin_token({"PORTCULLIS_ADMIN_TOKEN": text}, tmp_path)
