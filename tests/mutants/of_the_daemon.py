"""Mutants of the daemon: who may do what, what is believed of a client, what a push must be before it is taken."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_PROTOCOL = "blobstore/server/protocol/"
_UPLOADS, _BLOBS = f"{_PROTOCOL}_uploads.py", f"{_PROTOCOL}_blobs.py"
_TOKENS = "blobstore/server/auth/token_access.py"
_SITE = "blobstore/server/daemon/site.py"
_SECURITY, _SPEC = "tests/server/security/", "tests/spec/"
_TAKEN_TOKENS = f"{_SECURITY}test_tokens.py::test_a_token_that_is_not_for_us_or_not_for_now"
_VIEW = "    blob = await call.index.view_blob(call.name, digest, call.now_ms(), call.parts.terms)\n"

DAEMON = (
    Mutant(
        "mount-without-right",
        "A mount asks nobody whether its source may be pulled.",
        "S8",
        (
            Edit(
                _UPLOADS,
                "        if not call.core.access.may(call.principal, Need(each, PULL)):\n            continue\n",
                "",
            ),
        ),
        (f"{_SECURITY}test_tenants.py::test_a_mount_from_what_one_may_not_pull_is_an_upload",),
    ),
    Mutant(
        "upload-of-anybody",
        "The id of an upload is good for every user who may push to its repository.",
        "S3",
        (
            Edit(
                f"{_PROTOCOL}_upload_ids.py",
                'who = "nobody" if principal.name is None else f"={principal.name}"',
                'who = "nobody" if principal.name is None else "=somebody"',
            ),
        ),
        (f"{_SECURITY}test_uploads_of_others.py::test_who_may_push_there_may_not_touch_anothers_upload",),
    ),
    Mutant(
        "token-for-another-service",
        "A token that was issued for another registry opens this one.",
        "S16",
        (
            Edit(
                _TOKENS,
                "        if self._service not in ((claims.aud,) if isinstance(claims.aud, str) else claims.aud):\n",
                "        if not claims.aud:\n",
            ),
        ),
        (_TAKEN_TOKENS,),
    ),
    Mutant(
        "token-for-ever",
        "A token is good after its end.",
        "S16",
        (Edit(_TOKENS, "if claims.exp + leeway_s <= now_s:", "if claims.exp <= 0:"),),
        (f"{_SECURITY}test_tokens.py::test_a_token_ends_while_it_is_in_use",),
    ),
    Mutant(
        "token-of-any-algorithm",
        "The header of a token says how it is signed, and be it by nobody.",
        "S16",
        (
            Edit(
                _TOKENS,
                '        if header.get("alg") != key.algorithm:\n',
                '        if header.get("alg") is None:\n',
            ),
            Edit(
                _TOKENS,
                "decode_complete(token, key.public, algorithms=[key.algorithm])",
                'decode_complete(token, options={"verify_signature": False})',
            ),
        ),
        (f"{_SECURITY}test_tokens.py::test_no_other_algorithm_than_the_keys_own",),
    ),
    Mutant(
        "operators-on-the-public-address",
        "The operator's part is served to clients on whatever address they come to.",
        "S22",
        (
            Edit(
                "blobstore/server/daemon/serving.py",
                "serves_operator=not self._operator_sockets and all(each.is_loopback for each in self.public),",
                "serves_operator=not self._operator_sockets,",
            ),
        ),
        (f"{_SECURITY}test_operators.py::test_clients_find_it_on_the_loopback_alone",),
    ),
    Mutant(
        "operators-from-anywhere",
        "Without a token whoever reaches the operator's part is an operator.",
        "S22",
        (Edit(_SITE, "        if not comes_from_here(request):\n", "        if not request.peer:\n"),),
        (f"{_SECURITY}test_operators.py::test_another_machine_is_not",),
    ),
    Mutant(
        "operators-through-a-page",
        "A page in a browser of this machine starts collections.",
        "S22",
        (
            Edit(
                _SITE,
                'return headers.get("Origin") is not None or headers',
                "return headers",
            ),
        ),
        (f"{_SECURITY}test_operators.py::test_what_comes_through_others_is_not",),
    ),
    Mutant(
        "anybody-pushes",
        "What is public for pulls is public for pushes.",
        "S10",
        (
            Edit(
                "blobstore/server/auth/rules.py",
                "        if need.repository is None or need.actions != {Action.PULL}:\n            return False\n",
                "        if need.repository is None:\n            return False\n",
            ),
        ),
        (f"{_SECURITY}test_rights.py::test_what_is_public_may_be_pulled_and_no_more",),
    ),
    Mutant(
        "deletes-though-read-only",
        "A registry that is read-only deletes blobs.",
        "S10",
        (
            Edit(
                f"{_PROTOCOL}routing.py",
                'Endpoint.BLOB: _READ | {"DELETE": Rule(DELETE, is_write=True)},',
                'Endpoint.BLOB: _READ | {"DELETE": Rule(DELETE)},',
            ),
        ),
        (f"{_SECURITY}test_verbs.py::test_read_only_is_so_for_everybody_and_every_verb",),
    ),
    Mutant(
        "chunk-anywhere",
        "A chunk is appended, wherever it says that it belongs.",
        "S5",
        (
            Edit(
                _UPLOADS,
                "    if span is not None and span.start != upload.offset:\n",
                "    if span is not None and span.start < 0:\n",
            ),
        ),
        (f"{_SPEC}test_new_suite.py::TestBlobs::test_chunked_out_of_order",),
    ),
    Mutant(
        "short-chunk",
        "A chunk that ends before its place does is answered as if it were whole.",
        "S5",
        (
            Edit(
                _UPLOADS,
                "    if span is not None and upload.offset != span.stop:\n",
                "    if span is not None and upload.offset > span.stop:\n",
            ),
        ),
        (f"{_SPEC}test_pushing_in_chunks.py::test_a_body_of_another_length",),
    ),
    Mutant(
        "body-ends-when-its-client-goes",
        "A body that breaks off is taken for a whole one.",
        "S5",
        (
            Edit(
                "blobstore/server/web/_body.py",
                "            raise _interruption(error) from error\n        if",
                "            raise StopAsyncIteration from error\n        if",
            ),
        ),
        ("tests/server/test_web.py::test_a_client_that_goes_ends_the_reading_of_its_body_at_once",),
    ),
    Mutant(
        "put-digest-not-compared",
        "An upload is stored under the digest that it has, whatever its client called it.",
        "S5",
        (
            Edit(
                _UPLOADS,
                "            await _take(call, upload, span)\n            descriptor = await upload.commit(digest)\n",
                "            await _take(call, upload, span)\n            descriptor = await upload.commit()\n",
            ),
        ),
        (f"{_SECURITY}test_content.py::test_bytes_of_another_digest_become_no_blob",),
    ),
    Mutant(
        "blob-of-another-repository",
        "A blob is pulled from every repository, whoever has it.",
        "S12",
        (Edit(_BLOBS, _VIEW, "    blob = await call.index.find_blob(digest)\n"),),
        (f"{_SECURITY}test_tenants.py::test_a_blob_of_others_is_none_of_mine[GET]",),
    ),
    Mutant(
        "redirect-to-anything",
        "A presigned URL is given for what the repository doesn't have.",
        "S15",
        (
            Edit(
                _BLOBS,
                _VIEW,
                "    if call.settings.delivery is Delivery.REDIRECT:\n"
                "        blob = await call.index.find_blob(digest)\n"
                "    else:\n"
                f"    {_VIEW}",
            ),
        ),
        (f"{_SPEC}test_pulling_blobs.py::test_a_redirect_to_the_object_store",),
    ),
    Mutant(
        "no-low-water-mark",
        "Uploads are taken until the disk is full.",
        "S21",
        (
            Edit(
                _UPLOADS,
                "    if await call.core.room.is_short():\n",
                "    if await call.core.room.is_short() is None:\n",
            ),
        ),
        (f"{_SPEC}test_errors.py::test_below_the_low_water_mark",),
    ),
    Mutant(
        "request-id-as-it-came",
        "What a client calls its request is written and answered, line breaks and all.",
        "S25",
        (
            Edit(
                "blobstore/server/operations/logs.py",
                "return given if given is not None and _REQUEST_ID.fullmatch(given) else None",
                "return given",
            ),
        ),
        ("tests/server/operations/test_logs.py::test_another_is_not",),
    ),
    Mutant(
        "removed-user-remembered",
        "A password that was right is right until the cache forgets it, though its user was removed.",
        "S9",
        (
            Edit(
                "blobstore/server/auth/passwords.py",
                "credentials.password.encode(), users.entry(credentials.user).bcrypt):",
                "credentials.password.encode()):",
            ),
        ),
        (f"{_SECURITY}test_stale_rights.py::test_a_removed_user_is_refused_although_remembered",),
    ),
    Mutant(
        "client-of-its-own-choice",
        "Behind a proxy a client chooses the address by which its failures are counted.",
        "S17",
        (
            Edit(
                "blobstore/server/web/proxies.py",
                "            if not self.trusts(client.peer):\n                break\n",
                "",
            ),
        ),
        ("tests/server/test_proxies.py::test_what_a_client_made_up_in_front_of_the_proxies_is_not_believed",),
    ),
)
