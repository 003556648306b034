# What the scripts in this directory share: where the project is, what it needs, how it speaks.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac

# Needed to compile: a C compiler and libraries for libxdp, clang for the BPF programs.
build_packages=(build-essential clang llvm m4 pkg-config libelf-dev zlib1g-dev gcc-multilib libbpf-dev)

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
	bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
	bold='' dim='' red='' green='' plain=''
fi

# fail WHAT (WHERE): WHY; WHAT TO DO
fail() {
	printf '%serror:%s %s\n' "$red" "$plain" "$*" >&2
	exit 1
}

# wrong_argument ARGUMENT WHY; WHAT TO DO
wrong_argument() {
	printf '%serror:%s %s (argument): %s\n' "$red" "$plain" "$1" "${*:2}" >&2
	exit 2
}

need_root() {
	[[ $(id -u) == 0 ]] || fail "the user ($(id -un)): network namespaces and XDP need root; run it with sudo"
}

need_cargo() {
	[[ -r ${HOME:-/root}/.cargo/env ]] && . "${HOME:-/root}/.cargo/env"
	command -v cargo >/dev/null || fail "cargo (PATH): it is not installed; install Rust 1.90 or later with rustup"
}

# need_packages NAME…: installs those that are missing, without starting their services.
need_packages() {
	local missing=() package policy=/usr/sbin/policy-rc.d placed='' status=0
	for package in "$@"; do
		[[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
	done
	((${#missing[@]})) || return 0
	command -v apt-get >/dev/null || fail "packages (apt): this is not Debian; install the equivalents of ${missing[*]}"
	printf 'installing %s\n' "${missing[*]}"
	if [[ ! -e $policy ]]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod +x "$policy"
		placed=yes
	fi
	{
		apt-get -qq update &&
			DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
	} || status=1
	[[ -z $placed ]] || rm -f "$policy"
	((status == 0)) || fail "packages (apt): ${missing[*]} could not be installed; see the lines above"
}
