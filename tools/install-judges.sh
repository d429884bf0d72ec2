#!/usr/bin/env bash
# Installs the independent programs that the tests are judged by. Needs root on Debian; does nothing where they are there.
set -euo pipefail
packages=(dicom3tools dcmtk orthanc orthanc-dicomweb libxml2-utils chromium fonts-noto-cjk)
command -v npm >/dev/null || packages+=(npm)
missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if ((${#missing[@]})); then
  apt-get update --quiet=2
  DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends "${missing[@]}"
fi
