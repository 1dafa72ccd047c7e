# What a host is that has our modules beside `configuration`, in words that JSON has. The units' paths are the stub's.
configuration:
let
  lib = import ./stub/lib.nix;
  host = import ./stub/nixos.nix {
    inherit lib;
    pkgs = system: import ./stub { inherit lib system; };
    modules = [
      ../../nix/gateway.nix
      ../../nix/neuron.nix
      configuration
    ];
  };
  inherit (host) config;
in
{
  etc = lib.mapAttrs (_: file: {
    script = file.source.script;
    text = builtins.readFile file.source.rendered;
  }) config.environment.etc;
  ports = config.networking.firewall.allowedTCPPorts;
  logrotate = config.services.logrotate.settings;
  inherit (config.systemd) services;
  inherit (config.systemd.tmpfiles) rules;
  inherit (config.users) groups users;
}
