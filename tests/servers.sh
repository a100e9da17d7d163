#!/bin/sh
# Names the programs that tests start themselves and that are missing here, with the command that
# installs them; installs only when STILLHOUSE_APT=1. Columns: program, Debian package, used for.
set -eu
missing=""
while read -r program package purpose; do
  # Debian keeps servers outside the path of ordinary users; the pattern is meant to be expanded.
  PATH="$PATH:/usr/sbin:/sbin" command -v $program >/dev/null 2>&1 || {
    missing="$missing $package"
    echo "missing: $program (for $purpose); without it those tests are skipped"
  }
done <<LIST
chromium chromium the report page, opened in a browser
redis-server redis-server limits shared by several processes
/usr/lib/postgresql/*/bin/postgres postgresql accounts shared by several processes
nginx nginx the deployment recipe with TLS
LIST
[ -n "$missing" ] || exit 0
if [ "${STILLHOUSE_APT:-0}" = 1 ]; then
  as_root=""
  [ "$(id -u)" = 0 ] || as_root=sudo
  $as_root apt-get update -qq
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
  echo "to install: sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing"
  echo "or let the tests do it: STILLHOUSE_APT=1 make test"
fi
