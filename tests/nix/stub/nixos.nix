# nixosSystem: our modules beside the options of NixOS that they define.
{
  lib,
  pkgs,
  modules,
}:
let
  inherit (lib) mkOption types;
  modular = import ./modules.nix;
  given =
    type: default:
    mkOption {
      inherit type default;
      description = "NixOS' own.";
    };
  sets = given (types.attrsOf types.anything) { };
  nixos = {
    options = {
      environment.etc = sets;
      networking.firewall.allowedTCPPorts = given (types.listOf types.port) [ ];
      networking.hostName = given types.str "nixos";
      nixpkgs.hostPlatform = given types.str "x86_64-linux";
      services.logrotate.settings = sets;
      systemd.services = sets;
      systemd.tmpfiles.rules = given (types.listOf types.str) [ ];
      users.groups = sets;
      users.users = sets;
    };
  };
  evaluated = modular.evalModules {
    modules = [ nixos ] ++ modules;
    arguments.pkgs = pkgs evaluated.config.nixpkgs.hostPlatform;
  };
in
evaluated
