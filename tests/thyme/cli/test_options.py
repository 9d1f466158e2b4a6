"""Options: the same in a file, in the environment and on the command line, in this order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from thyme.cli.options import build_config, read_options, to_arguments
from thyme.config import Config

APP = "a:b"


def config(*arguments: str, **environment: str) -> Config:
    return build_config(read_options([APP, *arguments], environment))


def test_without_options_the_config_is_the_default() -> None:
    assert config() == Config()


def test_each_place_wins_over_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "thyme.toml"
    path.write_text('port = 1\ndrain-seconds = 1\nroot_path = "/file/"\ncompress = true\n')
    environment = {"THYME_CONFIG": str(path), "THYME_PORT": "2", "THYME_DRAIN_SECONDS": "2"}
    found = config("--port", "3", **environment)
    assert (found.port, found.drain_seconds, found.root_path) == (3, 2.0, "/file")
    assert found.compression is True
    assert config("--no-compress", **environment).compression is False


def test_the_application_may_stand_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "c").write_text(f'app = "{APP}"\nbind = [":80", "unix:/a"]\n')
    options = read_options(["--config", str(tmp_path / "c")], {})
    assert options["app"] == APP
    assert build_config(options).binds == (":80", "unix:/a")


def test_the_environment_has_words_and_switches() -> None:
    found = config(THYME_BIND=":80 [::1]:81", THYME_COMPRESS="off", THYME_STATE="ours")
    assert found.binds == (":80", "[::1]:81")
    assert found.compression is False


def test_every_limit_has_an_option() -> None:
    found = config("--head-bytes", "9", "--slow-bytes", "7", "--slow-seconds", "0.5")
    assert (found.head_bytes, found.slow_bytes, found.slow_seconds) == (9, 7, 0.5)


def test_metrics_are_on_loopback_by_default() -> None:
    assert read_options([APP, "--metrics", "9100"], {})["metrics"] == "127.0.0.1:9100"


def test_options_to_arguments_say_the_same() -> None:
    said = [
        *(APP, "--bind", ":80", "--bind", "fd://3", "--proxy-headers", "10.0.0.0/8,unix"),
        *("--no-compress", "--stop-on-eof", "--slow-bytes", "5", "--metrics", "9100"),
    ]
    options: dict[str, Any] = read_options(said, {})
    assert read_options(to_arguments(options), {}) == options


@pytest.mark.parametrize(
    ("arguments", "environment", "complaint"),
    [
        ([], {}, "required: APP"),
        ([APP, "--bind", "80"], {}, "expected HOST:PORT"),
        ([APP, "--proxy-headers", "proxy"], {}, "proxy"),
        ([APP, "--private-key", "k"], {}, "--certificate"),
        ([APP], {"THYME_RELOAD": "maybe"}, "THYME_RELOAD: got 'maybe'"),
        ([APP], {"THYME_PORT": "70000"}, "expected 0 to 65535"),
        ([APP, "--config", "/nowhere.toml"], {}, "cannot read /nowhere.toml"),
        ([APP, "--processes", "-1"], {}, "expected 0 or more"),
    ],
)
def test_nonsense_is_explained_and_exit_code_2(
    arguments: list[str],
    environment: dict[str, str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exited:
        read_options(arguments, environment)
    assert exited.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_file_with_an_unknown_option_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c").write_text("prot = 80\n")
    with pytest.raises(SystemExit):
        read_options([APP, "--config", str(tmp_path / "c")], {})
    assert "unknown option 'prot'" in capsys.readouterr().err
