# What the guest does once its mounts are ready. PROJECT and PYTHON come from the kernel's command line, the tests from a file.
mkdir -p /run/local /run/home
cd "$PROJECT" || exit
export HOME=/run/home PYTHONDONTWRITEBYTECODE=1 TMPDIR=/run/local PROFILE
"$PYTHON" -m pytest -p no:cacheprovider --basetemp=/run/local/pytest --maxfail=5 --durations=25 -o faulthandler_timeout=120 \
  --junitxml=/run/results/junit.xml $(cat /run/results/tests)
echo $? >/run/results/status
