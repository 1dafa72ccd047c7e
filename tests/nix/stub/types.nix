# Types of options: what a value may be (`check`), and what several definitions of one option come to (`merge`).
{ lib }:
let
  inherit (builtins)
    all
    attrNames
    catAttrs
    concatLists
    concatMap
    filter
    head
    isAttrs
    isBool
    isFloat
    isInt
    isList
    isString
    match
    storeDir
    stringLength
    substring
    ;
  one =
    path: values:
    if all (value: value == head values) values then
      head values
    else
      throw "The option `${path}' has conflicting definition values";
  simple = name: check: {
    inherit name check;
    merge = one;
  };
  isSet = value: isAttrs value && !(value ? outPath);
  isNumber = value: isInt value || isFloat value;
in
rec {
  bool = simple "boolean" isBool;
  int = simple "signed integer" isInt;
  float = simple "floating point number" isFloat;
  str = simple "string" isString;
  package = simple "package" (value: value ? outPath);
  port = simple "16 bit unsigned integer; between 0 and 65535 (both inclusive)" (
    value: isInt value && value >= 0 && value <= 65535
  );
  numbers.positive = simple "positive integer or floating point number" (value: isNumber value && value > 0);
  strMatching =
    pattern:
    simple "string matching the pattern ${pattern}" (value: isString value && match pattern value != null);
  externalPath = simple "absolute path not in the Nix store" (
    value: isString value && substring 0 1 value == "/" && substring 0 (stringLength storeDir) value != storeDir
  );
  anything = {
    name = "anything";
    check = _: true;
    merge = path: values: (if all isSet values then attrsOf anything else simple "anything" (_: true)).merge path values;
  };
  nullOr = type: {
    name = "null or ${type.name}";
    check = value: value == null || type.check value;
    merge = path: values: if all (value: value == null) values then null else type.merge path values;
  };
  listOf = type: {
    name = "list of ${type.name}";
    check = isList;
    merge = path: values: map (value: lib.merged path type [ value ]) (concatLists values);
  };
  attrsOf = type: {
    name = "attribute set of ${type.name}";
    check = isSet;
    merge =
      path: values:
      let
        sets = map lib.pushed values;
        defined = filter (name: concatMap lib.holding (catAttrs name sets) != [ ]) (concatMap attrNames sets);
      in
      lib.genAttrs defined (name: lib.merged "${path}.${name}" type (catAttrs name sets));
  };
  oneOf = types: {
    name = "one of several";
    check = value: builtins.any (type: type.check value) types;
    merge = path: values: (head (filter (type: all type.check values) types)).merge path values;
  };
  submodule = lib.submodule;
}
