# The gateway on NixOS: the unit and the files that the role `gateway` installs elsewhere.
# Not here: what a key of `settings` may be. The program says so while the system is built, as it does to the role.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.cortex-gateway;
  told = cfg.settings.gateway;
  toml = pkgs.formats.toml { };
  program = lib.getExe cfg.package;
  checked =
    check: name: value:
    pkgs.runCommand name { rendered = toml.generate name value; } ''
      ${program} ${check} $rendered
      cp $rendered $out
    '';
  settingsFile = checked "--check-config" "cortex.toml" cfg.settings;
  modelsFile = checked "--check-models" "models.toml" { inherit (cfg) models; };
in
{
  options.services.cortex-gateway = {
    enable = lib.mkEnableOption "the cortex gateway, one endpoint for the whole fleet";
    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { program = "cortex-gateway"; };
      defaultText = lib.literalMD "the gateway of this flake, built with the host's own nixpkgs";
      description = "The package that has cortex-gateway.";
    };
    settings = lib.mkOption {
      description = "What cortex.toml says: `gateway`, `eviction` and `neurons`. docs/inventory.md has the keys.";
      default = { };
      type = lib.types.submodule {
        freeformType = toml.type;
        # Only what this module reads itself. A default that differs from the schema's fails a test.
        options.gateway = {
          listen = lib.mkOption {
            type = lib.types.strMatching ".+:[0-9]+";
            default = "0.0.0.0:31313";
            description = "Address and port of the API.";
          };
          drain_timeout_s = lib.mkOption {
            type = lib.types.numbers.positive;
            default = 30.0;
            description = "For running requests at shutdown.";
          };
          access_log = lib.mkOption {
            type = lib.types.str;
            default = "";
            description = "File for one JSON line a request; empty writes them to the log alone.";
          };
        };
      };
    };
    models = lib.mkOption {
      type = lib.types.listOf (lib.types.attrsOf toml.type);
      default = [ ];
      description = "The catalogue, models.toml: every model of the fleet.";
    };
    keysFile = lib.mkOption {
      type = lib.types.nullOr lib.types.externalPath;
      default = null;
      example = "/run/secrets/cortex-keys.toml";
      description = ''
        A keys.toml outside the store, which only root need be able to read. It is read at the start: restart the unit when
        it changes. Without one nobody needs a key, and nobody is an operator.
      '';
    };
    openFirewall = lib.mkEnableOption "the API's port in the firewall";
  };

  config = lib.mkIf cfg.enable {
    environment.etc."cortex/cortex.toml".source = settingsFile;
    environment.etc."cortex/models.toml".source = modelsFile;
    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [
      (lib.toInt (lib.last (lib.splitString ":" told.listen)))
    ];

    # The unit's user is a dynamic one, so a file that outlives it is a group's, which the unit joins.
    users.groups.cortex = lib.mkIf (told.access_log != "") { };
    systemd.tmpfiles.rules = lib.mkIf (told.access_log != "") [ "f ${told.access_log} 0660 root cortex -" ];
    services.logrotate.settings.cortex-gateway = lib.mkIf (told.access_log != "") {
      files = [ told.access_log ];
      frequency = "daily";
      rotate = 14;
      missingok = true;
      notifempty = true;
      compress = true;
      delaycompress = true;
      create = "0660 root cortex";
      postrotate = "systemctl try-reload-or-restart cortex-gateway";
    };

    systemd.services.cortex-gateway = {
      description = "cortex gateway: one endpoint for the whole fleet";
      wantedBy = [ "multi-user.target" ];
      after = [ "network-online.target" ];
      wants = [ "network-online.target" ];
      startLimitIntervalSec = 300;
      startLimitBurst = 10;
      # The paths stay the same when the files change, so a new system reloads the gateway and breaks no stream.
      reloadTriggers = [
        settingsFile
        modelsFile
      ];
      serviceConfig = {
        Type = "notify";
        NotifyAccess = "main";
        ExecStart =
          "${program} --config /etc/cortex/cortex.toml --models /etc/cortex/models.toml"
          + lib.optionalString (cfg.keysFile != null) " --keys %d/keys.toml";
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        Restart = "on-failure";
        RestartSec = 2;
        KillMode = "mixed";
        TimeoutStopSec = builtins.floor (told.drain_timeout_s + 10);
        DynamicUser = true;
        LoadCredential = lib.mkIf (cfg.keysFile != null) [ "keys.toml:${cfg.keysFile}" ];
        SupplementaryGroups = lib.mkIf (told.access_log != "") [ "cortex" ];
        ReadWritePaths = lib.mkIf (told.access_log != "") [ (dirOf told.access_log) ];
        LimitNOFILE = 1048576;
        CapabilityBoundingSet = "";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateTmp = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        RestrictAddressFamilies = "AF_INET AF_INET6 AF_UNIX";
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = "@system-service";
        UMask = "0077";
      };
    };
  };
}
