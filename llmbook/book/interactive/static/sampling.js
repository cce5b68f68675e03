// Temperature, top-k and top-p over real distributions. `data` is described in distributions.py.
function build(view, data) {
  const [rows, columns, depths] = [data.temperatures.length, data.topKs.length, data.topPs.length];
  let setting = [...data.start];
  let draw = 0;
  let position = 0;
  const shown = 12;

  // What the three settings leave of the distribution at a node: `kept` tokens, who had `mass` of the probability.
  function filtered(node) {
    const [row, column, depth] = setting;
    const topP = data.topPs[depth];
    const probabilities = node.logits.map((logit) => Math.exp(logit / data.temperatures[row] - node.normalizers[row]));
    const most = Math.min(data.topKs[column] || data.vocabulary, data.vocabulary);
    let [kept, mass] = [most, 1];
    if (most <= probabilities.length) mass = probabilities.slice(0, most).reduce((sum, p) => sum + p, 0);
    if (topP < 1) {
      const far = data.topKs[column] ? undefined : node.far[`${row},${depth}`];
      if (far) [kept, mass] = far;
      else {
        let [before, number] = [0, 0];
        while (number < Math.min(most, probabilities.length) && before < topP * mass) before += probabilities[number++];
        [kept, mass] = [number, before];
      }
    }
    return {kept, mass, probabilities: probabilities.map((p, place) => (place < kept ? p / mass : 0))};
  }

  function ownProbabilities(node) {
    const row = data.temperatures.indexOf(1);
    return node.logits.map((logit) => Math.exp(logit - node.normalizers[row]));
  }

  // The text that this setting and these random numbers lead to, as numbers of pieces.
  function sampledText() {
    let place = (setting[0] * columns + setting[1]) * depths + setting[2];
    for (const [number, count] of data.draws[draw].runs) {
      if (place < count) return data.draws[draw].texts[number];
      place -= count;
    }
    throw new Error(`no text for setting ${setting}`);
  }

  function nodeAt(text, length) {
    let node = data.nodes[0];
    for (const word of text.slice(0, length)) node = data.nodes[node.after[word]];
    return node;
  }

  const text = h("p", {class: "text", "data-part": "text"});
  const summary = h("p", {"data-part": "summary", "aria-live": "polite"});
  const strip = h("div", {class: "strip", "aria-hidden": "true"});
  const stripNote = h("p", {class: "soft", "data-part": "dart"});
  const bars = h("div", {class: "bars", "data-part": "bars", role: "list"});
  const again = h("button", {class: "main", "data-part": "again", onclick: () => {
    draw = (draw + 1) % data.draws.length;
    show();
  }});
  const reset = h("button", {"data-part": "reset", onclick: () => {
    setting = [...data.start];
    [draw, position] = [0, 0];
    sliders.forEach((element, which) => element.set(setting[which]));
    show();
  }}, "Reset");
  const change = (which) => (place) => {
    setting[which] = place;
    show();
  };
  const sliders = [
    slider("temperature", data.temperatures, setting[0], String, "divides the logits: below 1 sharper, above 1 flatter",
      change(0)),
    slider("top-k", data.topKs, setting[1], (k) => (k ? String(k) : "off"), "keeps the k likeliest tokens", change(1)),
    slider("top-p", data.topPs, setting[2], (p) => (p < 1 ? String(p) : "off"),
      "keeps the likeliest until they reach p together", change(2)),
  ];
  const key = h("p", {class: "key soft"}, h("span", {}, h("i", {class: "k1"}), "after your settings"),
    h("span", {}, h("i", {class: "k2"}), "the model's own (temperature 1)"), h("span", {}, h("i", {class: "k3"}), "cut"));
  view.append(text, h("div", {class: "row"}, again, reset), h("div", {class: "sliders"}, ...sliders), summary, strip,
    stripNote, bars, key);

  function show() {
    const words = sampledText();
    position = Math.min(position, words.length - 1);
    const buttons = words.map((word, place) => h("button", {"data-place": place, "aria-pressed": String(place === position),
      "aria-label": `${data.pieces[word]}, sampled token ${place + 1}: show its distribution`,
      onclick: () => {
        position = place;
        show();
        text.querySelector(`[data-place="${place}"]`).focus();
      }}, data.pieces[word].replaceAll("\n", "\u23ce")));
    fill(text, data.prompt, buttons);

    again.textContent = `Draw again (${draw + 1} of ${data.draws.length})`;
    const node = nodeAt(words, position);
    const {kept, mass, probabilities} = filtered(node);
    const own = ownProbabilities(node);
    const chosen = words[position];
    const dart = data.draws[draw].darts[position];
    fill(summary, h("b", {}, `Token ${position + 1}: `), `${thousands(kept)} of ${thousands(data.vocabulary)} tokens `
      + (kept < data.vocabulary ? `kept; they had ${(100 * mass).toFixed(1)}\u00a0% of the probability.` : "kept."));

    const parts = [];
    let covered = 0;
    node.words.forEach((word, place) => {
      if (place >= kept) return;
      covered += probabilities[place];
      parts.push(h("span", {class: word === chosen ? "part hit" : "part", style: `width:${100 * probabilities[place]}%`},
        probabilities[place] > 0.08 ? visible(data.pieces[word]) : ""));
    });
    const late = dart > 0.6;
    fill(strip, h("div", {class: "parts mono"}, parts), h("div", {class: late ? "dart late" : "dart",
      style: `left:calc(${100 * dart}% - 1.5px)`}, h("span", {}, `random number ${dart.toFixed(3)}`)));
    fill(stripNote, "The kept tokens side by side, each as wide as its probability. The random number hits ",
      h("b", {class: "mono"}, visible(data.pieces[chosen])),
      covered < dart ? ", one of the many narrow ones at the right." : ".");

    const scale = 100;  // the tracks go from 0 to 1
    const cells = [];
    node.words.slice(0, shown).forEach((word, place) => {
      const marks = (place >= kept ? " cut" : "") + (word === chosen ? " hit" : "");
      const said = place >= kept ? "cut" : probabilities[place].toFixed(4);
      cells.push(h("span", {class: `piece mono${marks}`}, visible(data.pieces[word])),
        h("span", {class: `track${marks}`}, h("span", {class: "own", style: `width:${scale * own[place]}%`}),
          h("span", {class: "bar moves", style: `width:${scale * probabilities[place]}%`})),
        h("span", {class: `number${marks}`, role: "listitem", "data-word": data.pieces[word],
          "aria-label": `${visible(data.pieces[word])}: ${said}`}, said));
    });
    const rest = kept > shown ? 1 - probabilities.slice(0, shown).reduce((sum, p) => sum + p, 0) : 0;
    const others = data.vocabulary - shown;
    if (others > 0) {
      const inside = !node.words.slice(0, shown).includes(chosen);
      const marks = (rest > 0 ? "" : " cut") + (inside ? " hit" : "");
      const said = rest > 0 ? rest.toFixed(4) : "cut";
      cells.push(h("span", {class: `piece soft${marks}`}, `${thousands(others)} others`),
        h("span", {class: `track${marks}`}, h("span", {class: "bar moves", style: `width:${scale * rest}%`})),
        h("span", {class: `number${marks}`, role: "listitem", "data-word": "others", "aria-label": `others: ${said}`}, said));
    }
    fill(bars, cells);
  }
  show();
}
