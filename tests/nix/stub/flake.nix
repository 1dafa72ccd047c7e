{
  # Stands in for nixpkgs where there is no network: the names that our flake uses, and nothing behind them.
  description = "A stub of nixpkgs";

  outputs =
    { self }:
    let
      lib = import ./lib.nix;
      pkgs = system: import ./. { inherit lib system; };
    in
    {
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] pkgs;
      lib = lib // {
        nixosSystem =
          { modules }:
          import ./nixos.nix {
            inherit lib pkgs modules;
          };
      };
    };
}
