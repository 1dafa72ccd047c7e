# What our files use of nixpkgs' packages. A package is a derivation that has its name and could not be built.
{ lib, system }:
let
  # `attributes` are the derivation's own, as with nixpkgs' runCommand and mkShell: they can be read of it.
  package =
    name: attributes: more:
    derivation (
      {
        inherit name system;
        builder = "/stub";
      }
      // attributes
    )
    // more;
  packages = names: lib.genAttrs names (name: package name { } { });

  # TOML with everything on one line below the top: nixpkgs writes it otherwise, and means the same.
  value =
    given:
    if builtins.isAttrs given then
      "{ ${table ", " given} }"
    else if builtins.isList given then
      "[ ${builtins.concatStringsSep ", " (map value given)} ]"
    else
      builtins.toJSON given;
  table =
    separator: set:
    builtins.concatStringsSep separator (map (name: "${builtins.toJSON name} = ${value set.${name}}") (lib.attrNames set));

  pkgs =
    packages [
      "chromium"
      "coreutils"
      "curl"
      "git"
      "gnumake"
      "jq"
      "nixfmt-tree"
      "openssh"
      "zlib"
    ]
    // {
      inherit lib system;
      callPackage =
        file: given:
        let
          function = import file;
        in
        function (builtins.intersectAttrs (builtins.functionArgs function) (pkgs // { inherit lib; }) // given);
      formats.toml =
        { }:
        {
          type = lib.types.oneOf (
            with lib.types;
            [
              bool
              int
              float
              str
              (attrsOf (pkgs.formats.toml { }).type)
              (listOf (pkgs.formats.toml { }).type)
            ]
          );
          generate = name: set: builtins.toFile name (table "\n" set + "\n");
        };
      linkFarm = name: entries: package name { entries = builtins.toJSON entries; } { };
      mkShell = attributes: package "nix-shell" attributes { };
      prometheus = package "prometheus" { } { cli = package "prometheus-cli" { } { }; };
      runCommand =
        name: attributes: script:
        package name (attributes // { inherit script; }) { };
      stdenv.cc = package "gcc" { } { cc = package "gcc-cc" { } { }; };
      python3 = package "python3" { } {
        pkgs =
          packages [
            "aiohttp"
            "ansible-core"
            "gguf"
            "hatchling"
            "httptools"
            "huggingface-hub"
            "jinja2"
            "llguidance"
            "msgspec"
            "nvidia-ml-py"
            "opentelemetry-exporter-otlp-proto-http"
            "opentelemetry-sdk"
            "packaging"
            "pip"
            "prometheus-client"
            "psutil"
            "pydantic"
            "pyzmq"
            "rich"
            "safetensors"
            "sanic"
            "tokenizers"
            "torch"
            "transformers"
            "uvloop"
          ]
          // {
            buildPythonApplication =
              {
                pname,
                version,
                pyproject,
                src,
                build-system,
                dependencies,
                pythonImportsCheck,
                meta,
              }:
              assert pyproject;
              package "${pname}-${version}" { inherit src build-system dependencies pythonImportsCheck; } { inherit meta; };
          };
      };
    };
in
pkgs
