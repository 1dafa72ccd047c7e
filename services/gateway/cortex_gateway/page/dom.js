// Elements made and kept up to date. Everything shown is set as text, never as markup: names come from elsewhere.

export const byId = (id) => document.getElementById(id);

// An element with a class and children; a child may be text.
export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

export function button(text, onClick) {
  const made = element("button", "", text);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

// Sets the text of an element, only where it differs: a selection in it, and a reader's place, survive.
export function text(target, value) {
  if (target.textContent !== value) target.textContent = value;
}

// Makes the children of `parent` one per item, in order. What an item's key had before is kept and shown anew, so that
// focus and hover survive: `make()` gives {root, show(item)}.
export function list(parent, items, keyOf, make) {
  const known = (parent.shown ??= new Map());
  const gone = new Set(known.keys());
  let before = null;
  for (const item of items) {
    const itsKey = keyOf(item);
    gone.delete(itsKey);
    if (!known.has(itsKey)) known.set(itsKey, make());
    const row = known.get(itsKey);
    row.show(item);
    const place = before ? before.nextSibling : parent.firstChild;
    if (place !== row.root) parent.insertBefore(row.root, place);
    before = row.root;
  }
  for (const itsKey of gone) {
    known.get(itsKey).root.remove();
    known.delete(itsKey);
  }
}

// A table's row: `columns` are class names, `fill(cells, item)` puts the item into them.
export function row(columns, fill) {
  const cells = columns.map((name) => element("td", name));
  return { root: element("tr", "", ...cells), show: (item) => fill(cells, item) };
}

// A bar that is filled to a share of 0 to 1, read out as `label`.
export function bar(className = "") {
  const fill = element("div");
  const root = element("div", `bar ${className}`, fill);
  root.setAttribute("role", "meter");
  root.setAttribute("aria-valuemin", "0");
  root.setAttribute("aria-valuemax", "100");
  const show = (share, label) => {
    const percent = Math.round(Math.min(1, Math.max(0, share)) * 100);
    fill.style.width = `${percent}%`;
    root.classList.toggle("full", percent >= 95);
    root.setAttribute("aria-valuenow", String(percent));
    root.setAttribute("aria-label", label);
  };
  return { root, show };
}
