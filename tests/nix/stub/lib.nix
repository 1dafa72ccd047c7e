# What our files use of nixpkgs' lib. Same names, same arguments, same results for what we give them; no more.
let
  inherit (builtins)
    concatStringsSep
    elemAt
    filter
    isAttrs
    isString
    length
    listToAttrs
    split
    ;
in
rec {
  inherit (builtins)
    attrNames
    attrValues
    concatMap
    head
    mapAttrs
    ;
  genAttrs =
    names: make:
    listToAttrs (
      map (name: {
        inherit name;
        value = make name;
      }) names
    );
  replaceStrings = builtins.replaceStrings;
  last = list: elemAt list (length list - 1);
  splitString = separator: text: filter isString (split separator text);
  toInt = text: builtins.fromJSON text;
  hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
  optionalString = condition: text: if condition then text else "";
  importTOML = path: builtins.fromTOML (builtins.readFile path);
  getExe = package: "${package}/bin/${package.meta.mainProgram}";
  makeLibraryPath = packages: concatStringsSep ":" (map (package: "${package}/lib") packages);
  recursiveUpdate =
    left: right:
    left
    // mapAttrs (
      name: value:
      if isAttrs value && isAttrs (left.${name} or null) then recursiveUpdate left.${name} value else value
    ) right;

  fileset = {
    unions = map (path: if builtins.pathExists path then path else throw "fileset: ${toString path} is not there");
    toSource =
      { root, fileset }:
      let
        within = outer: inner: outer == inner || hasPrefix "${outer}/" inner;
        wanted = path: builtins.any (file: within (toString file) path || within path (toString file)) fileset;
      in
      builtins.path {
        name = "source";
        path = root;
        filter = path: _: wanted path;
      };
  };

  # Options must be described: NixOS' manual is made of these words.
  mkOption =
    option:
    if option ? description then { _type = "option"; } // option else throw "an option without a description";
  mkEnableOption =
    what:
    mkOption {
      type = types.bool;
      default = false;
      description = "Whether to enable ${what}.";
    };
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  literalMD = text: { inherit text; };
  literalExpression = literalMD;

  types = import ./types.nix { lib = import ./lib.nix // { inherit (import ./modules.nix) holding merged pushed submodule; }; };

  licenses.gpl3Plus = { };
  platforms.linux = [ ];
}
