#!/usr/bin/env bash
# build.sh FOLDER: two signed APT repositories for the lab's hosts, of packages that only look like the real ones.
#   FOLDER/distribution   what Debian would have: dkms, headers of this kernel, and lab-kernel, the part of a kernel that loads modules
#   FOLDER/nvidia         the driver in three versions, of two branches; in each a library and a module of that version
# Needs gcc, dpkg-dev and gpg. A host's /sys cannot be written, so that all of these take /run/lab-sys for it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1
sys=/run/lab-sys
work=$(mktemp -d)
export GNUPGHOME=$work/gnupg
trap 'gpgconf --kill all; rm -rf "$work"' EXIT

fresh() { # an empty folder, to be filled with what a package holds
    files=$work/files
    rm -rf "$files" && mkdir -p "$files/DEBIAN"
}

pack() { # REPOSITORY NAME VERSION DEPENDS
    printf '%s\n' "Package: $2" "Version: $3" "Architecture: amd64" "Maintainer: lab <lab@localhost>" ${4:+"Depends: $4"} \
        "Description: stands in for $2 in the lab" >"$files/DEBIAN/control"
    dpkg-deb --root-owner-group --build "$files" "$out/$1/$2_$3_amd64.deb" >/dev/null
    fresh
}

unit() { # NAME: a service that runs only beside a driver, as NVIDIA's do
    install -D -m 644 /dev/stdin "$files/lib/systemd/system/$1.service" <<UNIT
[Unit]
Description=stands in for $1
[Service]
ExecStartPre=/usr/bin/test -e $sys/module/nvidia/version
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
UNIT
}

distribution() {
    cp -r "$here/kernel/." "$files"
    pack distribution lab-kernel 1 ""
    install -D -m 755 "$here/dkms" "$files/usr/sbin/dkms"
    pack distribution dkms 3.0 ""
    pack distribution "linux-headers-$(uname -r)" 1 ""
}

driver() { # VERSION
    local package=$1-1
    mkdir -p "$files/usr/lib/x86_64-linux-gnu" && gcc -shared -fPIC -Wall -Werror -DLIBRARY_VERSION="\"$1\"" \
        -DLOADED_VERSION="\"$sys/module/nvidia/version\"" -o "$files/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1" "$here/../nvml/fake_nvml.c"
    pack nvidia libnvidia-ml1 "$package" ""
    install -D -m 755 "$here/nvidia-smi" "$files/usr/bin/nvidia-smi"
    pack nvidia nvidia-driver-cuda "$package" "libnvidia-ml1 (= $package)"
    unit nvidia-persistenced
    pack nvidia nvidia-persistenced "$package" ""
    unit nvidia-fabricmanager
    pack nvidia nvidia-fabricmanager "$package" ""
    install -D -m 644 /dev/stdin "$files/usr/lib/lab-modules/nvidia" <<<"$1"
    pack nvidia nvidia-kernel-open-dkms "$package" "dkms"
}

toolkit() { # VERSION
    install -D -m 755 /dev/stdin "$files/usr/local/cuda-$1/bin/nvcc" <<<'#!/bin/sh'
    pack nvidia "cuda-toolkit-${1/./-}" "$1.0-1" ""
}

sign() { # REPOSITORY
    cd "$out/$1"
    dpkg-scanpackages -m . >Packages 2>/dev/null
    printf 'Origin: lab\nSuite: lab\nDate: %s\nSHA256:\n %s %s Packages\n' "$(date -Ru)" "$(sha256sum <Packages | cut -d' ' -f1)" \
        "$(stat -c %s Packages)" >Release
    gpg -q --batch --clearsign -o InRelease Release
    gpg -q --armor --export >3bf863cc.pub # what NVIDIA calls its key for Debian 12
}

rm -rf "$out" && mkdir -p "$out"/{distribution,nvidia}
mkdir -m 700 "$GNUPGHOME"
gpg -q --batch --passphrase '' --quick-gen-key 'lab <lab@localhost>' ed25519 sign never 2>/dev/null
fresh
distribution
for version in 580.65.06 580.95.05 590.44.01; do driver "$version"; done
toolkit 13.0
sign distribution
sign nvidia
