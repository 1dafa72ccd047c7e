# What make, the tests and an operator call and pip cannot install; the rest is made by make, in .venv, as anywhere else.
{
  lib,
  mkShell,
  chromium,
  curl,
  git,
  gnumake,
  jq,
  openssh,
  prometheus,
  python3,
  stdenv,
  zlib,
}:
mkShell {
  packages = [
    chromium
    curl
    git
    gnumake
    jq
    openssh
    prometheus.cli
    python3
  ];
  # Wheels are linked against a distribution's libraries; the last folder is where NixOS keeps those of the GPU's driver.
  LD_LIBRARY_PATH = lib.makeLibraryPath [
    stdenv.cc.cc
    zlib
  ] + ":/run/opengl-driver/lib";
}
