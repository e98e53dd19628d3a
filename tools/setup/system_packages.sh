#!/usr/bin/env bash
# Installs Slurm with its accounting, and Chromium, for the tests that need them, as root on Debian or Ubuntu. Elsewhere it
# prints which tests will be skipped and how to install the packages; with CI=true missing packages are an error.
set -euo pipefail
packages=()
command -v slurmctld >/dev/null && command -v munged >/dev/null || packages+=(slurm-wlm munge)
command -v slurmdbd >/dev/null || packages+=(slurmdbd)
command -v mariadbd >/dev/null || packages+=(mariadb-server)
command -v chromium >/dev/null || packages+=(chromium)
command -v chromedriver >/dev/null || packages+=(chromium-driver)
((${#packages[@]})) || exit 0
if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  echo "set-up: installing ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  # Do not start daemons on installation: the tests start their own, on the loopback interface.
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
    trap 'rm -f "$policy"' EXIT
  fi
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
elif [[ ${CI:-} == true ]]; then
  echo "error: missing ${packages[*]}; installing them needs root on Debian or Ubuntu" >&2
  exit 2
else
  echo "set-up: the tests that need ${packages[*]} will be skipped; install them with: sudo apt-get install ${packages[*]}"
fi
