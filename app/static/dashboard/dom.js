// The only place where elements are made. Whatever comes from the service becomes text, never markup.

/** An element with properties, `data` attributes, `aria` attributes and children; strings become text. */
export function h(tag, { data = {}, aria = {}, role, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(data)) element.dataset[name] = value;
  for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, value);
  if (role) element.setAttribute("role", role);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** An element of SVG with attributes. */
export function svg(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Set a text only where it is another one: no layout for what has not changed. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A small square in a colour of the stylesheet: `device-0`, `model-3`, `free`. */
export function swatch(colour) {
  const element = h("i", { className: "swatch" });
  element.style.setProperty("--colour", `var(--${colour})`);
  return element;
}

/**
 * Make a parent's children those of `items`, in order: `make(item)` for a new key, `update(element, item)` for all.
 * Elements of the same key stay the same, so that focus, scroll position and transitions survive.
 */
export function keyed(parent, items, key, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let next = parent.firstElementChild;
  for (const item of items) {
    const id = String(key(item));
    let element = known.get(id);
    known.delete(id);
    if (!element) {
      element = make(item);
      element.dataset.key = id;
    }
    update?.(element, item);
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
  }
  for (const gone of known.values()) gone.remove();
}
