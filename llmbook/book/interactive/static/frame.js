// Shared by all interactive pictures. Runs once for each output; everything stays inside one function.

// h("p", {class: "soft", onclick: f}, "text", child, ...): an element with its attributes, listeners and children.
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

// A token as pictures show it: a space as a middle dot, a line break as an arrow.
function visible(piece) {
  return piece.replaceAll(" ", "\u00b7").replaceAll("\n", "\u23ce").replaceAll("\t", "\u21e5");
}

function thousands(number) {
  return String(number).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

function fixed(number, digits) {
  const text = number.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "\u2212");
}

// A labelled slider over the places of a list. `changed` gets the new place; the result has `.set(place)`.
function slider(name, values, place, show, hint, changed) {
  const output = h("output", {}, show(values[place]));
  const input = h("input", {type: "range", min: 0, max: values.length - 1, step: 1, "aria-label": name,
    "data-name": name});
  const element = h("label", {class: "slider"}, h("span", {class: "name"}, name, output), input,
    h("span", {class: "soft"}, hint));
  element.set = (next) => {
    input.value = next;
    output.textContent = show(values[next]);
    input.setAttribute("aria-valuetext", show(values[next]));
  };
  element.set(place);
  input.addEventListener("input", () => {
    element.set(Number(input.value));
    changed(Number(input.value));
  });
  return element;
}

// Dark where the page behind the picture is dark, whatever the page calls its themes.
function isDark(element) {
  for (let node = element; node; node = node.parentElement) {
    const parts = (getComputedStyle(node).backgroundColor.match(/[\d.]+/g) || []).map(Number);
    if (parts.length === 3 || parts[3] > 0.5) return 0.299 * parts[0] + 0.587 * parts[1] + 0.114 * parts[2] < 110;
  }
  const root = document.documentElement;
  if (/dark/.test(`${root.getAttribute("theme")} ${root.dataset.theme} ${root.className}`)) return true;
  return getComputedStyle(root).colorScheme.includes("dark") && matchMedia("(prefers-color-scheme: dark)").matches;
}

// Put the picture into each place that waits for it: a page may hold the same output twice.
function start(mark, description, styles, build, data) {
  for (const host of document.querySelectorAll(`[data-llmbook="${mark}"]`)) {
    if (host.shadowRoot) continue;
    const shadow = host.attachShadow({mode: "open"});
    const view = h("div", {class: "view", role: "group", "aria-label": description});
    const printing = h("slot", {});  // on paper, the still picture says the same
    const onPaper = "slot{display:none}@media print{slot{display:block}.view{display:none}}";
    shadow.append(h("style", {}, styles + onPaper), view, printing);
    const recolour = () => view.classList.toggle("dark", isDark(host.parentElement));
    recolour();
    const watcher = new MutationObserver(recolour);
    for (const element of [document.documentElement, document.body]) {
      watcher.observe(element, {attributes: true});
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
    host.addEventListener("keydown", (event) => event.stopPropagation());  // the page's shortcuts are not meant
    try {
      build(view, data);
    } catch (error) {  // better a still picture than none
      shadow.replaceChildren(h("slot", {}));
      console.error(error);
    }
  }
}
