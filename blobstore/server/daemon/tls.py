"""TLS as the configuration says it."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator

from blobstore.errors import ConfigInvalid
from blobstore.server.daemon.config import TlsConfig

# Those of TLS 1.3 are all good; of 1.2 only what has forward secrecy and authenticates what it encrypts.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def tls_context(config: TlsConfig) -> ssl.SSLContext:
    """What listens with it. The files are read now.

    Raises:
        ConfigInvalid: one is missing, can't be read, or doesn't fit the other.
    """
    if not config.certificate or not config.key:
        missing = "certificate" if not config.certificate else "key"
        raise ConfigInvalid(f"[server.tls] needs server.tls.{missing}, a file in PEM")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if config.least_version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    # Clients that renegotiate make the server work for nothing.
    context.options |= ssl.OP_NO_RENEGOTIATION
    with _explaining(f"server.tls.certificate ({config.certificate}) and server.tls.key ({config.key})"):
        # Never asks for a passphrase: there is nobody to answer.
        context.load_cert_chain(config.certificate, config.key, password=lambda: "")
    if config.client_authority:
        with _explaining(f"server.tls.client_authority ({config.client_authority})"):
            context.load_verify_locations(config.client_authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextlib.contextmanager
def _explaining(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        # ssl.SSLError is an OSError whose text names a function of OpenSSL.
        why = str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
        if "PEM lib" in why:
            why = "what is in a file of them is not in PEM"
        raise ConfigInvalid(f"{what} can't be used: {why.replace('_', ' ').lower().replace(' pem', ' PEM')}") from error
