"""Who may ask a server: keys, hosts and origins; and where it may listen."""

import pytest
from fixtures.serving import NAME, serving

from lightningrl.errors import ConfigError
from lightningrl.serving.guard import allowed_hosts, api_key, is_loopback

KEY = "0123456789abcdef"
ASK = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_loopback_names_are_served_at_any_port(served, host):
    for port in ("", f":{served.port}"):
        assert served.ask("/v1/models", Host=host + port)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "[", "", "a@localhost", "localhost:x"]
)
def test_another_host_is_refused_which_stops_dns_rebinding(served, host):
    status, body = served.ask("/v1/models", Host=host)
    assert status in (400, 421) and "error" in body


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://localhost.evil"])
def test_a_page_of_another_origin_is_refused_and_no_answer_allows_one(served, origin):
    assert served.ask("/v1/chat/completions", ASK, Origin=origin)[0] == 403
    assert served.ask("/v1/chat/completions", ASK, Origin=served.url)[0] == 200
    raw = served.connect()
    raw.sendall(f"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost:{served.port}\r\nOrigin: {served.url}\r\n"
                "Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n".encode())  # fmt: skip
    answer = raw.makefile("rb").read().lower()
    raw.close()
    assert b" 405 " in answer.splitlines()[0] and b"access-control" not in answer


def test_with_a_key_every_path_with_data_needs_it(llm):
    with serving(llm, key=KEY) as server:
        for path in ("/v1/models", "/v1/stats", "/v1/nothing"):
            for wrong in ({}, {"Authorization": "Bearer " + KEY[:-1]}, {"Authorization": KEY}, {"Authorization": "é"}):
                assert server.ask(path, **wrong)[0] == 401
        assert server.ask("/v1/chat/completions", ASK)[0] == 401
        assert server.ask("/v1/chat/completions", ASK, Authorization=f"Bearer {KEY}")[0] == 200
        assert server.ask("/health") == (200, {"status": "ok"})


def test_the_key_comes_from_a_private_file_or_the_environment(tmp_path):
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="other users can read the API key; run `chmod 600"):
        api_key(file, {})
    file.chmod(0o600)
    assert api_key(file, {"LIGHTNINGRL_API_KEY": "x" * 20}) == KEY
    assert api_key(None, {"LIGHTNINGRL_API_KEY": "x" * 20}) == "x" * 20
    assert api_key(None, {}) is None
    for bad in ("short", "with a blank in it!", "ключ" * 5):
        with pytest.raises(ConfigError, match="at least 16 printable ASCII characters"):
            api_key(None, {"LIGHTNINGRL_API_KEY": bad})


def test_off_loopback_a_key_is_required_and_everywhere_needs_a_name():
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.2", "example.org", "localhost.evil"))
    assert allowed_hosts("127.0.0.1", (), None) == {"localhost", "127.0.0.1", "::1"}
    for host in ("0.0.0.0", "192.168.0.2", "node7"):
        with pytest.raises(ConfigError, match="an API key is required: set LIGHTNINGRL_API_KEY"):
            allowed_hosts(host, ("node7",), None)
    assert allowed_hosts("192.168.0.2", ("Node7",), KEY) == {"192.168.0.2", "node7"}
    with pytest.raises(ConfigError, match="with --allowed-host"):
        allowed_hosts("0.0.0.0", (), KEY)
    assert "node7" in allowed_hosts("0.0.0.0", ("node7",), KEY)
