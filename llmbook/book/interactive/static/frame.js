// Shared by all interactive pictures. Runs once for each output; everything stays inside one function.

// h("p", {class: "soft", onclick: f}, "text", child, ...): an element with its attributes, listeners and children.
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
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

// A row of tokens of which one is chosen: by click or tap, by dragging along it, by arrow keys.
function chooser(name, tokens, chosen, changed) {
  const choices = tokens.map((token, place) => h("button", {role: "radio", class: "choice", "data-place": place},
    visible(token.trim() || token)));
  const element = h("div", {class: "choices", role: "radiogroup", "aria-label": name, "data-part": "choices"}, choices);
  let now = -1;
  element.set = (place) => {
    now = place;
    choices.forEach((choice, other) => {
      choice.setAttribute("aria-checked", String(other === place));
      choice.tabIndex = other === place ? 0 : -1;
    });
  };
  const choose = (place) => {
    if (place === now) return;
    element.set(place);
    changed(place);
  };
  const under = (event) => {
    const found = element.getRootNode().elementFromPoint(event.clientX, event.clientY);
    const choice = found && found.closest(".choice");
    if (choice && choices.includes(choice)) choose(Number(choice.dataset.place));
  };
  let dragging = false;
  element.addEventListener("pointerdown", (event) => {
    dragging = true;
    under(event);
  });
  element.addEventListener("pointermove", (event) => {
    if (dragging && (event.buttons || event.pointerType === "touch")) under(event);
  });
  for (const end of ["pointerup", "pointercancel", "pointerleave"]) {
    element.addEventListener(end, () => { dragging = false; });
  }
  choices.forEach((choice, place) => choice.addEventListener("click", () => choose(place)));
  element.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (!step) return;
    event.preventDefault();
    choose((now + step + tokens.length) % tokens.length);
    choices[now].focus();
  });
  element.set(chosen);
  element.choices = choices;
  return element;
}

// A button that is on or off.
function toggle(name, label, on, changed) {
  const element = h("button", {"data-name": name, "aria-pressed": String(on), onclick: () => {
    on = !on;
    element.set(on);
    changed(on);
  }});
  element.set = (next) => {
    on = next;
    element.setAttribute("aria-pressed", String(on));
    element.textContent = `${label}: ${on ? "on" : "off"}`;
  };
  element.set(on);
  return element;
}

// A vector as a strip of cells: blue above 0, red below, the stronger the larger. Few cells carry their numbers.
function cells(vector, limit, label, digits = 2) {
  const written = vector.length <= 8;
  return h("span", {class: written ? "cells written" : "cells", role: "img",
    "aria-label": `${label}: ${vector.slice(0, 8).map((x) => fixed(x, digits)).join(", ")}${written ? "" : ", and more"}`},
  vector.map((x) => h("span", {class: x < 0 ? "cell below" : "cell", style: `--a:${Math.min(1, Math.abs(x) / limit)}`,
    title: fixed(x, 4), "data-value": x.toFixed(6)}, written ? fixed(x, digits) : "")));
}

// Step, back, play: `steps` places, of which `go(place)` shows one.
function player(steps, place, go, name = "step") {
  let timer = null;
  let now = place;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "\u25b6 Play";
  };
  const move = (next) => {
    now = Math.max(0, Math.min(element.steps, next));
    back.disabled = now === 0;
    forth.disabled = now >= element.steps;
    go(now);
  };
  const back = h("button", {"data-part": "back", onclick: () => { stop(); move(now - 1); }}, "\u25c0 Back");
  const forth = h("button", {class: "main", "data-part": "step", onclick: () => { stop(); move(now + 1); }},
    `Next ${name} \u25b6`);
  const play = h("button", {"data-part": "play", onclick: () => {
    if (timer) return stop();
    if (now >= element.steps) move(0);
    play.textContent = "\u23f8 Pause";
    timer = setInterval(() => {
      if (!element.isConnected || now >= element.steps) return stop();
      move(now + 1);
      if (now >= element.steps) stop();
    }, 1100);
  }}, "\u25b6 Play");
  const first = h("button", {"data-part": "first", onclick: () => { stop(); move(0); }}, "Reset");
  const element = h("div", {class: "row"}, back, forth, play, first);
  element.steps = steps;
  element.move = move;
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
