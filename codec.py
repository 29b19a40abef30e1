"""Encrypted histories: what Temporal keeps of a task is readable only with one of our keys (AES-256-GCM, RFC 5116).

An encrypted payload holds `nonce | ciphertext | tag` of the payload that it stands for, and the key's id. Search
attributes, ids, types and queues stay plain: the server works with them.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from pydantic import SecretStr
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec

from domain.rotation import payload_keys

UNENCRYPTED: Final = SecretStr("")
ENCODING: Final = b"binary/encrypted"
KEY_ID: Final = "encryption-key-id"
_SHOWN: Final = 32  # characters of a key id that is not ours
_NONCE_BYTES: Final = 12  # random; good for 2^32 payloads a key (NIST SP 800-38D, 8.3)


class UndecodableError(ValueError):
    """An encrypted payload that cannot be read here; the message names the key's id."""


class Codec(PayloadCodec):
    """Encrypts with the first of its keys and decrypts with all of them; what is not encrypted passes through.

    So a task that began before there was a key, or under an older one, goes on. The SDK calls it outside the sandbox.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._ciphers = {name: AESGCM(key) for name, key in keys.items()}
        self._first = next(iter(self._ciphers))

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Return each payload encrypted."""
        return [self._encrypted(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Return each payload in plain. Raises UndecodableError."""
        return [self._decrypted(payload) for payload in payloads]

    def _encrypted(self, payload: Payload) -> Payload:
        nonce, name = os.urandom(_NONCE_BYTES), self._first.encode()
        data = nonce + self._ciphers[self._first].encrypt(nonce, payload.SerializeToString(), name)
        return Payload(metadata={"encoding": ENCODING, KEY_ID: name}, data=data)

    def _decrypted(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING:
            return payload
        name = payload.metadata.get(KEY_ID, b"")
        cipher = self._ciphers.get(name.decode("utf-8", "replace"))
        if cipher is None:
            shown = name[:_SHOWN].decode("utf-8", "replace")
            raise UndecodableError(
                f"payload key {shown!r} is not among TASKRUNNER_PAYLOAD_KEYS: add it behind the first"
            )
        try:
            plain = cipher.decrypt(payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:], name)
            return Payload.FromString(plain)
        except (InvalidTag, DecodeError, ValueError):
            message = f"a payload is not what payload key {name.decode()!r} encrypted: it was changed, or the key was"
            raise UndecodableError(message) from None


def codec_of(keys: SecretStr) -> Codec | None:
    """Return the codec of these keys, None for no keys. Raises ValueError, which names the key's id only."""
    found = payload_keys(keys.get_secret_value())
    return Codec(found) if found else None


def data_converter(keys: SecretStr) -> DataConverter:
    """Return how every client of ours writes to Temporal: pydantic's JSON, with keys encrypted, failures' words too.

    Raises ValueError, which names the key's id only.
    """
    codec = codec_of(keys)
    if codec is None:
        return pydantic_data_converter
    return replace(
        pydantic_data_converter,
        payload_codec=codec,
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )


async def decode_json(codec: Codec, document: bytes) -> bytes:
    """Return a JSON document of payloads, as Temporal's CLI and UI send it, decrypted. Raises ValueError."""
    try:
        payloads = json_format.Parse(document, Payloads())
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"this is no document of payloads: {str(error)[:200]}") from None
    decoded = Payloads(payloads=await codec.decode(payloads.payloads))
    return json_format.MessageToJson(decoded, indent=None).encode()
