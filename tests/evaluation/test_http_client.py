"""Proxies of the environment: which server is asked through one, and what is said if it cannot be used."""

import pytest

from sealtune.core.errors import UserError
from sealtune.evaluation.http_client import environment_proxy, is_this_machine

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "a.localhost", "127.0.0.1", "127.8.9.1", "::1", "0.0.0.0"])
def test_this_machine_is_known_by_its_name_or_address(host):
    assert is_this_machine(host)


@pytest.mark.parametrize("host", ["example.org", "localhost.example.org", "10.0.0.1", "128.0.0.1", "::2", ""])
def test_other_hosts_are_not_this_machine(host):
    assert not is_this_machine(host)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
@pytest.mark.parametrize("proxy", ["http://proxy:1", "socks5://proxy:1", "nonsense://"])
def test_a_server_on_this_machine_is_never_asked_through_a_proxy(monkeypatch, host, proxy):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    assert environment_proxy(f"http://{host}:8000/v1", "guard") is None
    assert environment_proxy(f"https://{host}:8000/v1", "guard") is None


def test_the_proxy_of_the_scheme_is_used_before_that_of_all(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://secure:1")
    monkeypatch.setenv("ALL_PROXY", "all:2")
    assert environment_proxy("https://h/v1", "guard") == ("http://secure:1", "HTTPS_PROXY")
    assert environment_proxy("http://h/v1", "guard") == ("http://all:2", "ALL_PROXY")


@pytest.mark.parametrize("listed", ["h.org", ".org", "10.0.0.0/8, h.org", "*", "h.org:8000", "other, h.org"])
def test_a_host_in_no_proxy_is_asked_directly(monkeypatch, listed):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:1")
    monkeypatch.setenv("NO_PROXY", listed)
    assert environment_proxy("http://h.org:8000/v1", "guard") is None
    assert (environment_proxy("http://10.example.com/v1", "guard") is None) == (listed == "*")


def test_a_network_in_no_proxy_is_asked_directly(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:1")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    assert environment_proxy("http://10.1.2.3:8000/v1", "guard") is None
    assert environment_proxy("http://11.1.2.3:8000/v1", "guard") is not None


def test_a_socks_proxy_without_its_package_is_one_line(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://me:opensesame@proxy:1")
    monkeypatch.setattr("sealtune.evaluation.http_client.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"guard: ALL_PROXY is a SOCKS proxy.*install httpx2\[socks\], unset it"
    ) as error:
        environment_proxy("https://h/v1", "guard")
    assert "opensesame" not in str(error.value)


@pytest.mark.parametrize("proxy", ["http://", "http://p:port", "ftp://p", "socks4://p:1", "http://pr oxy:1", "p:1:2"])
def test_a_broken_proxy_is_one_line_without_its_password(monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy.replace("//p", "//me:opensesame@p"))
    with pytest.raises(UserError, match="guard: HTTPS_PROXY is not the address of a proxy") as error:
        environment_proxy("https://h/v1", "guard")
    assert "opensesame" not in str(error.value) and "\n" not in str(error.value)
