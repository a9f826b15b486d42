#!/usr/bin/env bash
# The whole job before your eyes: images made of real files are imported, share layers, one is deleted, and a collection
# frees exactly what no other image shares. STORE=s3 does it on an object store, against a server that it starts itself.
# Needs nothing but the blobstore command; leaves nothing behind.
set -euo pipefail
demo=$(cd "$(dirname "$0")" && pwd)

work=$(mktemp -d "${TMPDIR:-/tmp}/blobstore-demo.XXXXXX")
clean() {
  # The server is in a session of its own, so Ctrl-C is not for it; its id lies there from the moment it runs.
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

say "2. Import them. What they share is stored once."
run import images/red demo/red:1
run import images/blue demo/blue:1
run stats

say "3. What would deleting each really free?"
run du

say "4. Delete one image. Nothing is freed yet: deleting takes references away, the collector takes the bytes."
run rm demo/red
policy=(--delete-untagged --grace 0s --quarantine 0s)
run gc --dry-run "${policy[@]}"
blobstore gc --dry-run "${policy[@]}" --json > dry-run.json

say "5. Collect. --grace 0s --quarantine 0s frees at once, as nobody is pushing here. On a store in use leave both alone:
   the grace keeps what a push was promised, the quarantine is the time you have for 'gc undo'."
printf '$ blobstore gc %s --json\n' "${policy[*]}${config:+ ${config[*]}}"
blobstore gc "${policy[@]}" --json > run.json
python - dry-run.json run.json <<'PY'
import json, sys
dry, done = (json.load(open(name)) for name in sys.argv[1:])
same = [blob["digest"] for blob in dry["candidates"]] == [blob["digest"] for blob in done["candidates"]]
assert same and done["blobs"]["freed"] == dry["blobs"]["freed"] > 0, (dry, done)
print(f"Freed {done['blobs']['freed']} blobs, {done['bytes']['freed']} bytes: exactly what the dry run named.")
PY

say "6. The other image is whole: every byte is read and checked against its digest, then exported and compared."
run check --read-data
run export demo/blue:1 exported
python "$demo/compare_layouts.py" images/blue exported

say "7. Lose the index, and make it anew from what lies in the store alone."
printf '$ rm -r %s\n' "$index"
rm -r "$index"
run ls || true
run "${rebuild[@]}"
run ls demo/blue
run check

say "8. Copy the store to another place, verified. A second run sends what is new: nothing."
unset BLOBSTORE_STORE
run copy "$source" moved
run copy "$source" moved
config=()
run check --read-data --store moved

say "Done. Everything was below $work and is removed now."
