{
  description = "A handful of unlike GPU hosts as one OpenAI- and Anthropic-compatible endpoint";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      eachSystem = make: lib.genAttrs systems (system: make system nixpkgs.legacyPackages.${system});
      rendered = [
        "cortex/cortex.toml"
        "cortex/models.toml"
        "neuron/models.toml"
        "neuron/neuron.toml"
      ];
    in
    {
      packages = eachSystem (
        _: pkgs: rec {
          cortex = pkgs.callPackage ./nix/package.nix { program = "cortex"; };
          cortex-gateway = pkgs.callPackage ./nix/package.nix { program = "cortex-gateway"; };
          cortex-neuron = pkgs.callPackage ./nix/package.nix { program = "cortex-neuron"; };
          default = cortex;
        }
      );

      apps = eachSystem (
        system: _:
        let
          app = package: program: {
            type = "app";
            program = "${self.packages.${system}.${package}}/bin/${program}";
          };
        in
        rec {
          cortex = app "cortex" "cortex";
          cortex-status = app "cortex" "cortex-status";
          cortex-gateway = app "cortex-gateway" "cortex-gateway";
          cortex-neuron = app "cortex-neuron" "cortex-neuron";
          default = cortex;
        }
      );

      devShells = eachSystem (_: pkgs: { default = pkgs.callPackage ./nix/devshell.nix { }; });

      nixosModules = {
        gateway.imports = [ ./nix/gateway.nix ];
        neuron.imports = [ ./nix/neuron.nix ];
      };

      # Building the last one has the programs judge the files of an example host.
      checks = eachSystem (
        system: pkgs:
        let
          host = lib.nixosSystem {
            modules = lib.attrValues self.nixosModules ++ [
              ./nix/example.nix
              { nixpkgs.hostPlatform = system; }
            ];
          };
        in
        {
          inherit (self.packages.${system}) cortex cortex-gateway cortex-neuron;
          example = pkgs.linkFarm "example" (lib.genAttrs rendered (name: host.config.environment.etc.${name}.source));
        }
      );

      formatter = eachSystem (_: pkgs: pkgs.nixfmt-tree);
    };
}
