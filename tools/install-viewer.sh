#!/usr/bin/env bash
# Installs the reading viewer into a centre's data: PROGRAM DATA. Without npm, or a network, the centre works without it.
set -euo pipefail
program=$1 data=$2
web=$(cd "$(dirname "$0")/../web" && pwd)
without() { echo "no reading viewer: $1; all else works, and /viewer says how to add it" >&2; exit 0; }
if ! cmp --silent "$web/package-lock.json" "$web/node_modules/.of-this-lock"; then
  command -v npm >/dev/null || without "npm is not installed (Debian: apt-get install npm)"
  (cd "$web" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) || without "npm could not fetch it"
  cp "$web/package-lock.json" "$web/node_modules/.of-this-lock"
fi
"$program" centre viewer "$web/node_modules/@ohif/app" --data "$data"
