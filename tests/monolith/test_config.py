"""Settings: all that cannot be used is said at once, a line each, and no line or dump has a secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from monolith import config, logs
from monolith.errors import BadSetting

SECRET = "Zs3cr3t-word"
BAD = {  # what is wrong, by setting
    "PORT": ("99999", "0", "eighty", ""),
    "HOST": ("no.such.host.invalid", "a..b", "127.0.0.1\n"),
    "INTRAY_HOME": ("/tmp/a\nb", "/tmp/\udcff", "/dev/null/home"),
    "WEB_THREADS": ("0", "-1", "many", "1e3"),
    "WEB_CONCURRENCY": ("0",),
    "WORKER_CONCURRENCY": ("0", "10001"),
    "SHUTDOWN_GRACE": ("-1", "nan", "inf", "1e400"),
    "PATIENCE_S": ("0",),
    "LOG_FORMAT": ("xml",),
    "LOG_LEVEL": ("LOUD",),
    "QUEUE_MODE": ("kafka",),
    "JOB_PACKAGES": ("nosuch", "jobs,nosuch", "os", "..", ","),
    "WORKER_CLASS": ("Worker", "a b.C"),
    "REQUEST_RATE": ("often", "0/m", "5/fortnight"),
    "SIGN_IN_RATE": ("0", ""),
    "SESSION_DAYS": ("0", "nan", "1e9"),
    "MAX_UPLOAD_BYTES": ("0", "10MB"),
    "MAX_QUEUED": ("-1", "99999999999999999999"),
    "KEEP_FINISHED_DAYS": ("-1", "inf"),
    "METRICS_TOKEN": (SECRET, f"{SECRET} {SECRET}"),
    "SECRET_KEY": (f"{SECRET}\udcff",),
    "OPENAI_API_KEY": (f"sk-{SECRET}\n", f"sk-ä{SECRET}"),
    "OPENAI_BASE_URL": ("localhost", f"ftp://u:{SECRET}@h", "http://", "http://h:99999"),
    "OPENAI_TIMEOUT": ("0",),
    "SMTP_URL": (f"smtp://u:{SECRET}/x@h", f"smtp://u:{SECRET}@h?tls=1", "smtp://", "mail.example.org"),
    "CALDAV_URL": (f"https://u:{SECRET}#x@h/c", f"https://u:{SECRET}@h:no/c"),
    "ALERT_WEBHOOK_URL": ("example.org",),
    "ALERT_WEBHOOK_SECRET": (f"whsec_{SECRET}", SECRET),
    "SANDBOX_CGROUP": ("/nowhere",),
    "REDIS_URL": (
        f"redis://:{SECRET}/xyz@h:6379/0",
        f"redis://:{SECRET}#xyz@h:6379/0",
        f"redis://:{SECRET}?xyz@h:6379/0",
        f"redis://:{SECRET}[xyz@h:6379/0",
        f"redis://:12/{SECRET}@h",
        f"redis://u:12?{SECRET}@h",
        f"redis://:{SECRET}%00@h",
        f"redis://:{SECRET}\udcff@h",
        f"redis://:{SECRET}@h:99999",
        f"redis://:{SECRET}@a..b",
        f"redis://:{SECRET}@h/zero",
        f"redis://:{SECRET}@h?nonsense=1",
        f"redis://:{SECRET}@h?socket_timeout=soon",
        f"rediss://:{SECRET}@h?ssl_cert_reqs=maybe",
        f"rediss://:{SECRET}@h?ssl_ca_certs=/nowhere",
        f"redis+sentinel://:{SECRET}/x@h:1,i:2/main",
        f"redis+sentinel://:{SECRET}@h:1,i:x/main",
        f"redis+sentinel://:{SECRET}@h:1,i:2",
        f"http://:{SECRET}@h",
        "unix://",
        SECRET,
    ),
    "DATABASE_URL": (
        f"postgresql://u:p@{SECRET}@h/d",
        f"postgresql://u:{SECRET}%00@h/d",
        f"postgresql://u:{SECRET}\udcff@h/d",
        f"postgresql://u:{SECRET}@h:99999/d",
        f"postgresql://u:{SECRET}@h:{SECRET}/d",
        f"postgresql://u:{SECRET}@a..b/d",
        f"postgresql://u:{SECRET}@h/d?nonsense=1",
        f"postgresql://u:{SECRET}@h/d?sslmode=maybe",
        f"postgresql://u:{SECRET}@h/d?connect_timeout=soon",
        f"postgresql://u:{SECRET}@h/d?sslrootcert=/nowhere",
        f"postgresql+asyncpg://u:{SECRET}@h/d",
        f"mysql://u:{SECRET}@h/d",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite://intray.sqlite3",
        "sqlite:////tmp",
        f"sqlite:///{__file__}",
        SECRET,
    ),
}
GOOD = {
    "HOST": ("::1", "0.0.0.0", "localhost"),
    "LOG_LEVEL": ("info",),
    "JOB_PACKAGES": ("jobs, tests.trial_jobs",),
    "REQUEST_RATE": ("0", "", "5 per 10 minutes"),
    "SMTP_URL": ("smtps://u%40x:p%2F@h", "smtp://h:25?starttls=never"),
    "CALDAV_URL": ("https://u:p@h/calendars/me@example.org/",),
    "REDIS_URL": (
        "redis://h",
        "redis://:p%2F%40@h:1/0?max_connections=5&socket_timeout=3&protocol=3",
        "rediss://u:p@[::1]:1/0?ssl_cert_reqs=none",
        "unix:///tmp/a.sock?db=1",
        "unix://:p@/tmp/a.sock",
        "redis+sentinel://u:p@h:1,i:2/main/0?sentinel_password=x",
        "rediss+sentinel://h,i/main?ssl_check_hostname=false",
    ),
    "DATABASE_URL": (
        "postgres://u:p%2F%40@h/d",
        "postgresql://u:p/x@h/d?sslmode=require&search_path=intray&options=-cstatement_timeout%3D1min&connect_timeout=3",
        "postgresql:///d?host=/var/run/postgresql",
        "sqlite:///instance/some%20file ?.sqlite3",
    ),
}


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> tuple[str, ...]:
    """What is said of these settings: nothing when they can be used."""
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            config.settings.__wrapped__()
        except BadSetting as error:
            return error.lines
        return ()


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INTRAY_HOME", str(tmp_path))
    for name in BAD.keys() & os.environ.keys() - {"INTRAY_HOME"}:
        monkeypatch.delenv(name)


def test_whatever_cannot_be_used_is_one_line_without_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ((name, value) for name, values in BAD.items() for value in values):
        lines = refused(monkeypatch, **{name: value})
        assert len(lines) == 1 and name in lines[0] and "\n" not in lines[0], (name, value, lines)
        assert "Correct it or unset it." in lines[0] or "Set " in lines[0], lines
        assert "Zs3cr3t" not in lines[0], lines


def test_what_can_be_used_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(monkeypatch) == ()
    for name, value in ((name, value) for name, values in GOOD.items() for value in values):
        assert refused(monkeypatch, **{name: value}) == (), (name, value)


def test_all_of_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(refused(monkeypatch, **{name: values[0] for name, values in BAD.items()})) == len(BAD)


def test_overrides_of_a_job_type_are_said_at_once_and_let_everything_else_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYZE_RATE", "")
    assert config.settings.__wrapped__().overrides_of("analyze") == {"rate": None}, "no limit, whatever the type declares"
    monkeypatch.setenv("ANALYZE_RATE", "0/m")
    monkeypatch.setenv("ANALYZE_TIMEOUT", "soon")
    with pytest.raises(BadSetting) as raised:
        config.settings.__wrapped__().overrides_of("analyze")
    assert [line.split()[0] for line in raised.value.lines] == ["ANALYZE_TIMEOUT", "ANALYZE_RATE"]


def test_a_misspelt_name_is_noticed_and_other_programs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {
        "WORKER_CONCURENCY": "WORKER_CONCURRENCY",
        "REDSI_URL": "REDIS_URL",
        "LOGLEVEL": "LOG_LEVEL",
        "ANALYZE_TIMOUT": "ANALYZE_TIMEOUT",
    }
    for name in (*mine, "HOSTNAME", "REDIS_TLS_URL", "POST", "DATABASE", "no_proxy", "LOGNAME", "HEROKU_POSTGRESQL_RED_URL", "PORTS"):
        monkeypatch.setenv(name, "1")
    assert config.misspelt() == mine


def test_neither_a_dump_of_the_settings_nor_a_log_line_has_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "SECRET_KEY": "key-Zs3cr3t",
        "OPENAI_API_KEY": "another-Zs3cr3t",
        "METRICS_TOKEN": "metrics-token-Zs3cr3t",
        "DATABASE_URL": "postgresql://u:p%40ss-Zs3cr3t@h/d",
        "REDIS_URL": "redis+sentinel://u:redis-Zs3cr3t@h:1,i:2/main",
        "SMTP_URL": "smtp://u:mail-Zs3cr3t@h",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    config.settings.cache_clear()
    try:
        assert "Zs3cr3t" not in repr(config.settings())
        said = f"{' '.join(secrets.values())} decoded: p@ss-Zs3cr3t, alone: redis-Zs3cr3t mail-Zs3cr3t"
        assert "Zs3cr3t" not in logs.mask(said) and "decoded: ***, alone: *** ***" in logs.mask(said)
    finally:
        config.settings.cache_clear()
