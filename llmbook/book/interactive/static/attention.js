// One head: a query meets all keys; scores, weights and the weighted sum of values follow. All from (tokens, d) tensors.
function build(view, data) {
  const {tokens, query, key, value, features} = data;
  const size = query[0].length;
  let [chosen, scaled, masked] = [data.start, data.scaled, data.masked];
  let looked = null;  // the key whose score is worked out below; the heaviest one unless the reader chose
  const limit = Math.max(...value.flat().map(Math.abs));

  function attend() {
    const products = key.map((row) => row.reduce((sum, x, feature) => sum + x * query[chosen][feature], 0));
    const scores = products.map((x, place) => (masked && place > chosen ? -Infinity
      : scaled ? x / Math.sqrt(size) : x));
    const largest = Math.max(...scores);
    const exponentials = scores.map((x) => Math.exp(x - largest));
    const total = exponentials.reduce((sum, x) => sum + x, 0);
    const weights = exponentials.map((x) => x / total);
    const context = value[0].map((_, feature) => weights.reduce((sum, w, place) => sum + w * value[place][feature], 0));
    return {products, scores, weights, context, total: total * Math.exp(largest)};
  }

  const choices = chooser("query: which token looks", tokens, chosen, (place) => {
    [chosen, looked] = [place, null];
    show();
  });
  const arcs = h("div", {"aria-hidden": "true"});
  const sentence = h("div", {class: "sentence"}, arcs, choices);
  const scaling = toggle("scale", `divide by \u221a${size}`, scaled, (on) => { scaled = on; show(); });
  const masking = toggle("mask", "causal mask", masked, (on) => { masked = on; show(); });
  const keys = h("div", {class: "keys", "data-part": "keys"});
  const work = h("p", {class: "work", "data-part": "work", "aria-live": "polite"});
  view.append(h("p", {class: "soft"}, "Choose the token that looks (the query): click, drag along the sentence, or use the arrow keys."),
    sentence, h("div", {class: "row"}, scaling, masking), keys, work);

  const signed = (x) => (x < 0 ? `(${fixed(x, 2)})` : fixed(x, 2));

  function drawArcs(weights) {
    const middles = choices.choices.map((choice) => choice.offsetLeft + choice.offsetWidth / 2);
    const width = choices.offsetWidth;
    const from = middles[chosen];
    const paths = weights.map((weight, place) => {
      if (weight < 0.002) return "";
      const to = middles[place];
      const top = place === chosen ? 44 : Math.max(6, 70 - 20 - Math.abs(from - to) / 4);
      const shape = place === chosen ? `M${from - 9} 74C${from - 22} ${top - 8} ${from + 22} ${top - 8} ${from + 9} 74`
        : `M${from} 74C${from} ${top} ${to} ${top} ${to} 74`;
      return `<path d="${shape}" stroke-width="${1 + 11 * weight}" opacity="${0.3 + 0.7 * weight}"/>`;
    });
    arcs.innerHTML = `<svg viewBox="0 0 ${width} 76" style="width:${width}px">${paths.join("")}</svg>`;
  }

  function show() {
    const {products, scores, weights, context, total} = attend();
    const at = looked === null ? weights.indexOf(Math.max(...weights)) : looked;
    const rows = tokens.map((token, place) => {
      const hidden = scores[place] === -Infinity;
      const name = visible(token.trim() || token);
      return [
        h("button", {class: place === chosen ? "key own" : "key", "aria-pressed": String(place === at),
          "aria-label": `${name}: work out its weight`, onclick: () => {
            looked = place;
            show();
            keys.querySelectorAll("button")[place].focus();
          }}, name),
        h("span", {class: hidden ? "number masked" : "number", "data-score": place}, hidden ? "masked" : fixed(scores[place], 4)),
        h("span", {class: "track"}, h("span", {class: "bar moves", style: `width:${100 * weights[place]}%`})),
        h("span", {class: "number", "data-weight": place}, weights[place].toFixed(4)),
        h("span", {class: "value"}, cells(value[place], limit, `value of ${name}`)),
      ];
    });
    const names = features ? h("span", {class: "names"}, features.map((feature) => h("span", {}, feature))) : "its value";
    const own = visible(tokens[chosen].trim() || tokens[chosen]);
    fill(keys, h("span", {class: "head"}, "key"), h("span", {class: "head number"}, "score"), h("span", {class: "head"}, "weight"),
      h("span", {}), h("span", {class: "head value"}, names), rows,
      h("span", {class: "sum"}, "Context of ", h("b", {}, own), ": each value times its weight, added up"),
      h("span", {class: "value sum", "data-part": "context"}, cells(context, limit, `context of ${own}`),
        features ? h("span", {class: "names soft"}, features.map((feature) => h("span", {}, feature))) : null));
    const other = visible(tokens[at].trim() || tokens[at]);
    const steps = [h("b", {}, `${own} looks at ${other}: `)];
    if (scores[at] === -Infinity) steps.push(`${other} comes later, so the causal mask sets the score to \u2212\u221e and the weight to 0.`);
    else {
      const terms = query[chosen].slice(0, 4).map((x, feature) => `${signed(x)} \u00d7 ${signed(key[at][feature])}`);
      steps.push(`query \u00b7 key = ${terms.join(" + ")}${size > 4 ? ` + \u2026 (${size} products)` : ""} = ${fixed(products[at], 2)}`);
      if (scaled) steps.push(`; divided by \u221a${size}: ${fixed(scores[at], 2)}`);
      const share = Math.exp(scores[at]);
      steps.push(share < 1e5 && total < 1e6
        ? `; e to this power: ${share.toFixed(2)}, which is ${weights[at].toFixed(4)} of the sum ${total.toFixed(2)}.`
        : `; softmax makes it ${weights[at].toFixed(4)}.`);
    }
    fill(work, steps);
    const choice = choices.choices[chosen];
    if (choice.offsetLeft < sentence.scrollLeft || choice.offsetLeft + choice.offsetWidth > sentence.scrollLeft + sentence.clientWidth) {
      sentence.scrollLeft = choice.offsetLeft - sentence.clientWidth / 2;
    }
    drawArcs(weights);
  }
  show();
  new ResizeObserver(() => drawArcs(attend().weights)).observe(sentence);
}
