"""The payload codec: who can read what Temporal keeps."""

import base64
import json

import pytest
from pydantic import SecretStr
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError

from codec import ENCODING, Codec, UndecodableError, codec_of, data_converter, decode_json
from domain.messages import NodeReady
from domain.names import NodeId

NEW, OLD = f"new:{'11' * 32}", f"old:{'22' * 32}"
MODEL = NodeReady(node_id=NodeId("the-plain-words"))


def converter(*keys: str) -> DataConverter:
    """Give what a client with these keys uses."""
    return data_converter(SecretStr(",".join(keys)))


async def test_what_is_written_is_read_and_shows_nothing() -> None:
    """The same model comes back; of the payload only the encoding and the key's id can be seen."""
    (payload,) = await converter(NEW).encode([MODEL])
    assert b"plain-words" not in payload.SerializeToString()
    assert dict(payload.metadata) == {"encoding": ENCODING, "encryption-key-id": b"new"}
    assert await converter(NEW).decode([payload], [NodeReady]) == [MODEL]


async def test_the_same_value_never_looks_the_same() -> None:
    """A nonce is used once."""
    first, second = await converter(NEW).encode([MODEL, MODEL])
    assert first.data[:12] != second.data[:12]
    assert first.data != second.data


async def test_the_first_key_encrypts_and_all_decrypt() -> None:
    """After a rotation old payloads are read and new ones have the new key; without keys plain ones are."""
    (old,) = await converter(OLD).encode([MODEL])
    (plain,) = await pydantic_data_converter.encode([MODEL])
    rotated = converter(NEW, OLD)
    assert await rotated.decode([old, plain], [NodeReady, NodeReady]) == [MODEL, MODEL]
    assert (await rotated.encode([MODEL]))[0].metadata["encryption-key-id"] == b"new"


async def test_a_key_that_is_gone_is_named() -> None:
    """The sentence says which key and which setting."""
    (old,) = await converter(OLD).encode([MODEL])
    with pytest.raises(UndecodableError, match="payload key 'old' is not among TASKRUNNER_PAYLOAD_KEYS"):
        await converter(NEW).decode([old], [NodeReady])


@pytest.mark.parametrize("place", ["nonce", "ciphertext", "tag", "key id", "short", "empty"])
async def test_a_changed_payload_is_refused(place: str) -> None:
    """One bit anywhere, another key's id, a cut: an error, and no plain text."""
    both = Codec({"new": bytes(32), "old": bytes(32)})  # the same bytes: only the id tells them apart
    (payload,) = await both.encode([Payload(data=b"x" * 50)])
    data = bytearray(payload.data)
    if place == "key id":
        payload.metadata["encryption-key-id"] = b"old"
    elif place in {"short", "empty"}:
        data = data[:20] if place == "short" else bytearray()
    else:
        data[{"nonce": 3, "ciphertext": 20, "tag": -1}[place]] ^= 1
    payload.data = bytes(data)
    with pytest.raises(UndecodableError, match="was changed"):
        await both.decode([payload])


async def test_the_words_of_a_failure_are_encrypted() -> None:
    """Message, stack and details, of the cause too; they come back, and so do those of a failure in plain words."""
    secret = converter(NEW)
    told = ApplicationError("outer plain-words", {"told": "plain-words"}, type="code")
    told.__cause__ = ValueError("inner plain-words")
    for writer in (secret, pydantic_data_converter):
        failure = Failure()
        await writer.encode_failure(told, failure)
        assert (b"plain-words" in failure.SerializeToString()) is (writer is pydantic_data_converter)
        read = await secret.decode_failure(failure)
        assert isinstance(read, ApplicationError)
        assert (read.message, list(read.details)) == ("outer plain-words", [{"told": "plain-words"}])
        assert "inner plain-words" in str(read.cause)


@pytest.mark.parametrize(
    "text", ["k1:zz", "k1:1122", "k1", f"k1:{'11' * 16}", f"k1:{'11' * 32},k1:{'22' * 32}", f":{'11' * 32}"]
)
def test_keys_that_make_no_sense_are_refused(text: str) -> None:
    """The message names the key and not its bytes."""
    with pytest.raises(ValueError, match="payload key") as raised:
        codec_of(SecretStr(text))
    assert "1122" not in str(raised.value)
    assert "1111" not in str(raised.value)


def test_without_keys_nothing_is_encrypted() -> None:
    """The converter is pydantic's own, so histories stay readable."""
    assert converter() is pydantic_data_converter
    assert codec_of(SecretStr("")) is None


async def test_a_document_of_payloads_is_decoded_as_temporals_tools_send_it() -> None:
    """Base64 in, base64 out, in the same order; plain ones pass through."""
    codec = Codec({"k": bytes(32)})
    plain = Payload(metadata={"encoding": b"json/plain"}, data=b'"words"')
    (encrypted,) = await codec.encode([plain])
    sent = [
        {
            "metadata": {name: base64.b64encode(value).decode() for name, value in payload.metadata.items()},
            "data": base64.b64encode(payload.data).decode(),
        }
        for payload in (encrypted, plain)
    ]
    answer = json.loads(await decode_json(codec, json.dumps({"payloads": sent}).encode()))
    assert answer["payloads"] == [sent[1], sent[1]]


@pytest.mark.parametrize("document", [b"", b"[1]", b'{"payloads": 1}', b"\xff"])
async def test_what_is_no_document_of_payloads_is_refused(document: bytes) -> None:
    """A ValueError, whatever it is."""
    with pytest.raises(ValueError, match="no document of payloads"):
        await decode_json(Codec({"k": bytes(32)}), document)
