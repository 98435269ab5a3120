"""A Redis with TLS and a certificate that nobody has signed: refused unless a setting says otherwise, or the host is known for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hosts.servers import TlsRedis, tls_redis
from tests.support.processes import NewIntray


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsRedis]:
    with tls_redis(tmp_path_factory.mktemp("redis"), connections=100) as server:
        yield server


def test_a_certificate_that_nobody_has_signed_is_refused_and_the_mend_is_said(new_intray: NewIntray, redis: TlsRedis) -> None:
    done = new_intray(REDIS_URL=redis.url).manage("doctor")
    assert re.search(r"^PROBLEM +redis .*CERTIFICATE_VERIFY_FAILED.*REDIS_TLS_VERIFY=false", done.stdout, re.MULTILINE), done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize("settings", [{"REDIS_TLS_VERIFY": "false"}, {"DYNO": "web.1", "SECRET_KEY": "k" * 40}], ids=["told", "on a dyno"])
def test_it_is_taken_where_a_setting_says_so_and_on_a_dyno(new_intray: NewIntray, redis: TlsRedis, settings: dict[str, str]) -> None:
    done = new_intray(REDIS_URL=redis.url, **settings).manage("doctor")
    assert re.search(r"^ok +redis ", done.stdout, re.MULTILINE), done.stdout
    assert "certificate not checked" in done.stdout
    assert "p/ss" not in done.stdout and "p%2Fss" not in done.stdout


def test_an_authority_of_ones_own_is_named_in_the_url(new_intray: NewIntray, redis: TlsRedis, tmp_path: Path) -> None:
    own = f"{redis.url}?ssl_ca_certs={redis.certificate}&ssl_check_hostname=false"
    done = new_intray(REDIS_URL=own).manage("doctor")
    assert re.search(r"^ok +redis ", done.stdout, re.MULTILINE), done.stdout
    assert "certificate not checked" not in done.stdout
