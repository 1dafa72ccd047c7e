# nixpkgs' module system in small: options and definitions of several modules into one `config`. It has imports, mkIf anywhere,
# defaults, types that merge, submodules with a freeform type, and the errors for a definition without an option, of the wrong
# type, or missing. It has no priorities other than a default's, and no mkMerge.
let
  inherit (builtins)
    attrNames
    catAttrs
    concatMap
    filter
    foldl'
    isAttrs
    isFunction
    mapAttrs
    ;
  isA = type: value: isAttrs value && (value._type or null) == type;
  lib = import ./lib.nix;

  # A set under conditions as a set of values under conditions, so that what is defined can be known before what holds.
  pushed = value: if isA "if" value then mapAttrs (_: lib.mkIf value.condition) (pushed value.content) else value;
  # A value under conditions: none or one.
  holding = value: if isA "if" value then (if value.condition then holding value.content else [ ]) else [ value ];

  merged =
    path: type: definitions:
    let
      values = concatMap holding definitions;
      wrong = filter (value: !type.check value) values;
    in
    if wrong != [ ] then
      throw "A definition for option `${path}' is not of type `${type.name}'"
    else
      type.merge path values;

  option =
    path: declared: definitions:
    if concatMap holding definitions != [ ] then
      merged path declared.type definitions
    else if declared ? default then
      merged path declared.type [ declared.default ]
    else
      throw "The option `${path}' was accessed but has no value defined";

  # `others` is what becomes of names that are not options: given path and definitions, a set.
  tree =
    others: path: options: definitions:
    let
      sets = map pushed definitions;
      unknown = filter (name: !(options ? ${name})) (concatMap attrNames sets);
      below = name: if path == "" then name else "${path}.${name}";
      known = mapAttrs (
        name: declared:
        (if isA "option" declared then option else tree others) (below name) declared (catAttrs name sets)
      ) options;
    in
    others path unknown sets // known;

  none = path: unknown: _: if unknown == [ ] then { } else throw "The option `${path}.${builtins.head unknown}' does not exist";
in
{
  inherit holding merged pushed;

  submodule =
    { freeformType, options }:
    let
      freeform = path: unknown: sets: mapAttrs (name: _: merged "${path}.${name}" freeformType (catAttrs name sets)) (
        lib.genAttrs unknown (_: null)
      );
    in
    {
      name = "submodule";
      check = value: isAttrs value && !(value ? outPath);
      merge = path: values: tree freeform path options values;
    };

  evalModules =
    { modules, arguments }:
    let
      load =
        module:
        if isFunction module then
          load (module (arguments // { inherit config lib; }))
        else if isAttrs module then
          [ module ] ++ concatMap load (module.imports or [ ])
        else
          load (import module);
      loaded = concatMap load modules;
      options = foldl' lib.recursiveUpdate { } (catAttrs "options" loaded);
      definitions = map (module: module.config or (removeAttrs module [
          "imports"
          "options"
        ])) loaded;
      config = tree none "" options definitions;
    in
    {
      inherit config options;
    };
}
