"""Secrets: which key is meant, what is wrong with it, and that values stay out of texts."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from controller.credentials import SecretProblem, read_credential, scrub
from modelcache.api.spec import SecretRef
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import Forbidden, NotFound, Unreachable
from modelcache.sources.base import Credential


class OneSecret(KubeClient):
    """A client that knows one Secret, or fails."""

    def __init__(self, data: dict[str, bytes] | Exception) -> None:
        self._data = data

    async def get(self, resource: Any, name: str, namespace: str = "", *, into: type[Any]) -> Any:
        if isinstance(self._data, Exception):
            raise self._data
        return into(data={key: base64.b64encode(value).decode() for key, value in self._data.items()})


async def read(data: dict[str, bytes] | Exception, key: str | None = None, scheme: str = "hf") -> dict[str, str]:
    credential = await read_credential(OneSecret(data), "ns", SecretRef(name="hub", key=key), scheme)
    return dict(credential.values)


async def problem(data: dict[str, bytes] | Exception, key: str | None = None) -> tuple[str, str]:
    with pytest.raises(SecretProblem) as caught:
        await read(data, key)
    return caught.value.problem.reason, caught.value.problem.message


async def test_the_key_that_is_named_or_the_usual_ones() -> None:
    assert await read({"mine": b"hf_1", "token": b"hf_2"}, "mine") == {"token": "hf_1"}
    assert await read({"HF_TOKEN": b"hf_1", "token": b"hf_2"}) == {"token": "hf_2"}
    assert await read({"HF_TOKEN": b"hf_1\n"}) == {"token": "hf_1"}
    assert await read({"id": b"a", "key": b"b"}, scheme="x-other") == {"id": "a", "key": "b"}
    assert await read({"id": b"a", "key": b"b"}, "key", scheme="s3") == {"key": "b"}


async def test_what_is_missing_is_named_in_full() -> None:
    reason, message = await problem(NotFound("no"))
    assert reason == "SecretNotFound"
    assert "ns/hub" in message
    reason, message = await problem({"other": b"x"}, "mine")
    assert reason == "SecretNotFound"
    assert "'mine'" in message
    assert "ns/hub" in message
    reason, message = await problem({"other": b"x"})
    assert "'token' or 'HF_TOKEN'" in message
    assert (await problem(Forbidden("no")))[0] == "SecretForbidden"


@pytest.mark.parametrize("value", [b"", b"  \n", b"\xff\xfe", b"a\x00b", b"two\nlines"])
async def test_what_cannot_be_a_token_is_refused_without_repeating_it(value: bytes) -> None:
    reason, message = await problem({"token": value})
    assert reason == "SecretInvalid"
    assert "ns/hub" in message
    assert "two" not in message


async def test_an_api_server_that_is_away_is_no_problem_of_the_secret() -> None:
    with pytest.raises(Unreachable):
        await read(Unreachable("away"))


def test_texts_are_scrubbed() -> None:
    credential = Credential({"token": "hf_canary", "user": "abc", "longer": "hf_canary_and_more"})
    assert scrub("Bearer hf_canary_and_more, hf_canary, abc", credential) == "Bearer ***, ***, abc"
    assert scrub("hf_canary", None) == "hf_canary"


async def test_s3_takes_the_documented_keys_and_no_others() -> None:
    data = {
        "AWS_ACCESS_KEY_ID": b"AKIA", "AWS_SECRET_ACCESS_KEY": b"hunter2hunter2", "AWS_REGION": b"eu-west-1",
        "unrelated": b"\x00binary",
    }  # fmt: skip
    values = await read(data, scheme="s3")
    assert set(values) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"}
    assert scrub("hunter2hunter2 in eu-west-1", Credential(values)) == "*** in eu-west-1"


async def test_an_authority_is_text_of_several_lines_beside_whichever_key_the_token_has() -> None:
    authority = b"-----BEGIN CERTIFICATE-----\r\nMIIB\n-----END CERTIFICATE-----\n"
    data = {"mine": b"secret-token", "ca.crt": authority, "password": b"other-secret"}
    values = await read(data, "mine", scheme="https")
    assert values == {"token": "secret-token", "ca.crt": authority.decode().strip()}
    assert await read({"ca.crt": authority}, scheme="https") == {"ca.crt": authority.decode().strip()}
    assert set(await read({**data, "AWS_REGION": b"x"}, scheme="s3")) == {"ca.crt", "AWS_REGION"}
    assert "MIIB" in scrub("MIIB secret-token", Credential(values)), "an authority is no secret"
    alone = {"ca.crt": authority.decode().strip()}
    assert await read({"token": b"hf_1", "ca.crt": authority}) == {"token": "hf_1"} | alone
    assert await read({"ca.crt": authority}) == alone, "a mirror may ask nobody who he is"
    reason, message = await problem({"ca.crt": authority, "other": b"x"})
    assert (reason, "'token' or 'HF_TOKEN'" in message) == ("SecretNotFound", True)
