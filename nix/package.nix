# One of cortex's programs, with what pyproject.toml says that it needs: no requirement is written here again.
{
  lib,
  python3,
  program,
}:
let
  inherit (lib.importTOML ../pyproject.toml) project;
  extras = {
    cortex = [ "operator" ];
    cortex-gateway = [
      "gateway"
      "otel"
    ];
    cortex-neuron = [
      "neuron"
      "otel"
    ];
  };
  modules = {
    cortex = [ "cortex_status" ];
    cortex-gateway = [ "cortex_gateway" ];
    cortex-neuron = [ "cortex_neuron" ];
  };
  # "huggingface_hub>=1.0" is called huggingface-hub in nixpkgs.
  named = requirement: lib.replaceStrings [ "_" ] [ "-" ] (lib.head (builtins.match "([A-Za-z0-9_-]+).*" requirement));
  requirements =
    project.dependencies ++ lib.concatMap (extra: project.optional-dependencies.${extra}) extras.${program};
in
python3.pkgs.buildPythonApplication {
  pname = program;
  inherit (project) version;
  pyproject = true;
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../LICENSE
      ../README.md
      ../pyproject.toml
      ../services
    ];
  };
  build-system = [ python3.pkgs.hatchling ];
  dependencies = map (requirement: python3.pkgs.${named requirement}) requirements;
  pythonImportsCheck = modules.${program};
  meta = {
    inherit (project) description;
    license = lib.licenses.gpl3Plus;
    platforms = lib.platforms.linux;
    mainProgram = program;
  };
}
