#!/usr/bin/env bash
# The whole job before your eyes: a registry is started, images made of real files are pushed to it over HTTP, share layers, a
# tag is deleted, and a collection inside the registry frees exactly what no other image shares. STORE=s3 does it on an object
# store, against a server that it starts itself. Needs nothing but the blobstore command; leaves nothing behind.
set -euo pipefail
demo=$(cd "$(dirname "$0")" && pwd)

work=$(mktemp -d "${TMPDIR:-/tmp}/blobstore-demo.XXXXXX")
daemon=
clean() {
  status=$?
  if [ -n "$daemon" ]; then
    kill -9 "$daemon" 2>/dev/null || true
    if [ "$status" != 0 ]; then tail -n 20 "$work/serve.log" >&2 || true; fi
  fi
  # The S3 server is in a session of its own, so Ctrl-C is not for it; its id lies there from the moment it runs.
  if [ -s "$work/server.pid" ]; then kill -9 "$(cat "$work/server.pid")" 2>/dev/null || true; fi
  # What the server was writing when it went may come a moment later.
  rm -rf "$work" 2>/dev/null || { sleep 1; rm -rf "$work"; }
}
trap clean EXIT
cd "$work"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
blobstore() { command blobstore "$@" "${config[@]}"; }
run() {
  printf '$ blobstore %s\n' "$*${config:+ ${config[*]}}"
  blobstore "$@"
}
registry() { python "$demo/registry.py" "$url" "$@"; }
unset BLOBSTORE_STORE BLOBSTORE_INDEX
config=()
rebuild=(index rebuild)

case "${STORE:-file}" in
file)
  export BLOBSTORE_STORE=store
  index=store/index
  source=store
  ;;
s3)
  # Of this demo alone: nobody's own cloud is asked, and nothing is kept outside of the work directory.
  for name in $(compgen -e | grep -i -E '^(AWS_|(HTTPS?|ALL)_PROXY$|(CURL|REQUESTS)_CA_BUNDLE$|SSL_CERT_FILE$)' || true); do unset "$name"; done
  export AWS_ACCESS_KEY_ID=demo-key AWS_SECRET_ACCESS_KEY=demo-secret AWS_EC2_METADATA_DISABLED=true
  export XDG_STATE_HOME="$work/state"
  say "0. Start an S3 server (SeaweedFS) with an empty bucket. blobstore.toml says where it is, the environment who we are."
  python "$demo/start_s3.py" "$work"
  config=(--config blobstore.toml)
  cat blobstore.toml
  index=state/blobstore
  source=s3://registry/demo
  # Usually it waits a quarter of an hour, as a request of a process that died may still take effect. Here none did.
  rebuild=(index rebuild --wait 0s)
  ;;
*)
  echo "STORE is file or s3, not $STORE" >&2
  exit 2
  ;;
esac

say "1. Two images made of real files: both hold Python's json package, each one package of its own."
python "$demo/make_images.py" images

say "2. Start the registry on a free port. A store is made, as there is none."
echo '$ blobstore serve --listen 127.0.0.1:0'
command blobstore serve --listen 127.0.0.1:0 "${config[@]}" > serving 2> serve.log &
daemon=$!
until grep -q ' on http' serving; do
  kill -0 "$daemon" 2>/dev/null || { cat serve.log >&2; daemon=; exit 1; }
  sleep 0.05
done
cat serving
url=$(grep -o 'http://[0-9.:]*' serving)

say "3. Push them over HTTP. What they share is sent and stored once."
echo "PUT $url/v2/demo/red/…"
registry push images/red demo/red:1
echo "PUT $url/v2/demo/blue/…"
registry push images/blue demo/blue:1 demo/red
run stats

say "4. What would deleting each really free?"
run du

say "5. Delete a tag. Nothing is freed yet: deleting takes references away, the collector takes the bytes."
echo "DELETE $url/v2/demo/red/manifests/1"
registry delete demo/red:1
policy=(--delete-untagged --grace 0s --quarantine 0s)
run gc --dry-run "${policy[@]}"
blobstore gc --dry-run "${policy[@]}" --json > dry-run.json

say "6. Collect, inside the registry and while it serves. --grace 0s --quarantine 0s frees at once, as nobody is pushing here. On
   a registry in use leave both alone: the grace keeps what a push was promised, the quarantine is the time you have for
   'gc undo'. It collects by itself, every quarter of an hour what was let go, and once a day everything."
asked='{"delete_untagged": true, "grace_s": 0, "quarantine_s": 0}'
registry dry-run "$asked" > api-dry-run.json
echo "POST $url/api/v1/runs {\"policy\": $asked}"
registry collect "$asked" > run.json
python - dry-run.json api-dry-run.json run.json <<'PY'
import json, sys
dry, asked, done = (json.load(open(name)) for name in sys.argv[1:])
named = [sorted(blob["digest"] for blob in each["candidates"]) for each in (dry, asked, done)]
assert named[0] == named[1] == named[2] and done["blobs"]["freed"] == dry["blobs"]["freed"] > 0, (dry, asked, done)
print(f"Freed {done['blobs']['freed']} blobs, {done['bytes']['freed']} bytes: exactly what both dry runs named.")
PY

say "7. The other image is whole: pulled over HTTP, every byte checked against its digest and compared with the files."
registry pull demo/blue:1 pulled
python "$demo/compare_layouts.py" images/blue pulled

say "8. Stop the registry: it finishes what is under way. Then look at every byte in the store."
kill -TERM "$daemon"
wait "$daemon"
daemon=
run check --read-data

say "9. Lose the index, and make it anew from what lies in the store alone."
printf '$ rm -r %s\n' "$index"
rm -r "$index"
run ls || true
run "${rebuild[@]}"
run ls demo/blue
run check

say "10. Copy the store to another place, verified. A second run sends what is new: nothing."
unset BLOBSTORE_STORE
run copy "$source" moved
run copy "$source" moved
config=()
run check --read-data --store moved

say "Done. Everything was below $work and is removed now."
