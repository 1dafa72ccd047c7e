# The neuron on NixOS: the unit and the files that the role `neuron` installs elsewhere. The GPU's driver is the host's affair
# (hardware.nvidia), and so is torch's CUDA: `nixpkgs.config.cudaSupport = true` builds the package with it.
# Not here: what a key of `settings` may be. The program says so while the system is built, as it does to the role.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.cortex-neuron;
  told = cfg.settings.neuron;
  toml = pkgs.formats.toml { };
  program = lib.getExe cfg.package;
  checked =
    check: name: value:
    pkgs.runCommand name { rendered = toml.generate name value; } ''
      ${program} ${check} $rendered
      cp $rendered $out
    '';
  settingsFile = checked "--check-config" "neuron.toml" cfg.settings;
  modelsFile = checked "--check-models" "models.toml" { inherit (cfg) models; };
in
{
  options.services.cortex-neuron = {
    enable = lib.mkEnableOption "the cortex neuron, which serves models on this host";
    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { program = "cortex-neuron"; };
      defaultText = lib.literalMD "the neuron of this flake, built with the host's own nixpkgs";
      description = "The package that has cortex-neuron.";
    };
    settings = lib.mkOption {
      description = "What neuron.toml says in `neuron`. docs/inventory.md has the keys.";
      default = { };
      type = lib.types.submodule {
        freeformType = toml.type;
        # Only what this module reads itself. A default that differs from the schema's fails a test.
        options.neuron = {
          name = lib.mkOption {
            type = lib.types.str;
            default = config.networking.hostName;
            defaultText = lib.literalExpression "config.networking.hostName";
            description = "What the fleet calls this host.";
          };
          port = lib.mkOption {
            type = lib.types.port;
            default = 13131;
            description = "Port it listens on.";
          };
          drain_timeout_s = lib.mkOption {
            type = lib.types.numbers.positive;
            default = 30.0;
            description = "For running requests at shutdown or unload.";
          };
        };
      };
    };
    models = lib.mkOption {
      type = lib.types.listOf (lib.types.attrsOf toml.type);
      default = [ ];
      description = "The catalogue, models.toml, the whole of it on every host: see models of services.cortex-gateway.";
    };
    environmentFile = lib.mkOption {
      type = lib.types.nullOr lib.types.externalPath;
      default = null;
      example = "/run/secrets/neuron.env";
      description = "Secrets of the environment, such as HF_TOKEN, as NAME=value lines. Those of `settings` are public.";
    };
    openFirewall = lib.mkEnableOption "the neuron's port in the firewall";
  };

  config = lib.mkIf cfg.enable {
    environment.etc."neuron/neuron.toml".source = settingsFile;
    environment.etc."neuron/models.toml".source = modelsFile;
    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [ told.port ];

    users.groups.neuron = { };
    users.users.neuron = {
      isSystemUser = true;
      group = "neuron";
      home = "/var/lib/neuron";
    };

    systemd.services.cortex-neuron = {
      description = "cortex neuron: serves models on this host";
      wantedBy = [ "multi-user.target" ];
      after = [ "network-online.target" ];
      wants = [ "network-online.target" ];
      startLimitIntervalSec = 300;
      startLimitBurst = 5;
      restartTriggers = [ settingsFile ];
      # Only models whose own entry has changed notice a reload.
      reloadTriggers = [ modelsFile ];
      # A user without a home would put caches anywhere: they are named, all of them, below the state directory.
      environment = {
        HOME = "/var/lib/neuron";
        HF_HOME = "/var/lib/neuron/huggingface";
        TORCHINDUCTOR_CACHE_DIR = "/var/lib/neuron/inductor";
        TRITON_CACHE_DIR = "/var/lib/neuron/triton";
      };
      serviceConfig = {
        Type = "exec";
        ExecStart = "${program} --config /etc/neuron/neuron.toml --models /etc/neuron/models.toml";
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        Restart = "on-failure";
        RestartSec = 5;
        # The daemon ends its engine processes itself; what is left after the time below is killed with it.
        KillMode = "mixed";
        TimeoutStopSec = builtins.floor (told.drain_timeout_s + 20);
        User = "neuron";
        EnvironmentFile = lib.mkIf (cfg.environmentFile != null) [ cfg.environmentFile ];
        StateDirectory = "neuron";
        StateDirectoryMode = "0750";
        RuntimeDirectory = "neuron";
        RuntimeDirectoryMode = "0750";
        # That the neuron was drained is kept there.
        RuntimeDirectoryPreserve = "restart";
        LimitMEMLOCK = "infinity";
        LimitNOFILE = 1048576;
        CapabilityBoundingSet = "";
        LockPersonality = true;
        NoNewPrivileges = true;
        PrivateTmp = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        # Models may lie in a home; nothing there is written. Devices stay visible: they are the GPUs.
        ProtectHome = "read-only";
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectSystem = "strict";
        RestrictAddressFamilies = "AF_INET AF_INET6 AF_UNIX AF_NETLINK";
        RestrictNamespaces = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        UMask = "0027";
      };
    };
  };
}
