// Follow one token through a transformer block. Every number comes from the real one; see blocks.py.
function build(view, data) {
  const {tokens, stages} = data;
  const names = tokens.map((token) => visible(token.trim() || token));
  let [chosen, at] = [data.start, 0];

  const choices = chooser("token to follow", tokens, chosen, (place) => {
    chosen = place;
    show();
  });
  const list = h("ol", {});
  const controls = player(stages.length - 1, 0, (next) => {
    at = next;
    show();
  }, "step");
  view.append(h("p", {class: "soft"}, "Choose a token, then follow its vector through the block, step by step."), choices,
    h("div", {style: "height:12px"}), controls, h("div", {class: "stages"}, list),
    h("p", {class: "soft", style: "margin:8px 0 0"}, `Cells: the first ${stages[0].values[0].length} features of the token, blue above 0 and orange below, `
      + "each row with its own scale. Shapes are (tokens, features)."));

  function headWeights(stage) {
    const seen = names.slice(0, chosen + 1);
    return h("div", {class: "weights", style: `grid-template-columns: 48px repeat(${seen.length}, minmax(0, 1fr))`},
      h("span", {}), seen.map((name) => h("span", {class: "top"}, name)),
      stage.weights.map((head, number) => [h("span", {class: "top"}, `head ${number + 1}`),
        head[chosen].slice(0, chosen + 1).map((w, place) => h("span", {class: "w", style: `--a:${w}`, title: w.toFixed(4),
          "data-weight": `${number},${place}`, "data-value": w}, w.toFixed(2)))]));
  }

  function detail(stage) {
    const values = stage.values[chosen];
    const numbers = values.slice(0, 8).map((x) => fixed(x, 4)).join(", ");
    return h("div", {class: "detail", "data-part": "detail", "aria-live": "polite"}, h("p", {}, stage.text),
      stage.weights ? headWeights(stage) : null,
      h("p", {class: "numbers"}, h("span", {class: "mono", "data-part": "numbers"}, numbers), stage.shape[1] > 8 ? `, \u2026 (${thousands(stage.shape[1])} features)` : ""),
      h("p", {class: "numbers"}, "mean ", h("b", {"data-part": "mean"}, fixed(stage.mean[chosen], 4)), ", standard deviation ",
        h("b", {"data-part": "deviation"}, fixed(stage.deviation[chosen], 4))));
  }

  function show() {
    fill(list, stages.map((stage, place) => {
      const kind = `stage${stage.stream ? " stream" : ""}${place === at ? " on" : ""}${place > at ? " ahead" : ""}`;
      const row = h("button", {class: kind, "data-stage": place, "aria-current": place === at ? "step" : null, onclick: () => {
        controls.move(place);
        list.querySelector(`[data-stage="${place}"]`).focus();
      }},
      h("span", {class: stage.stream ? "dot" : "dot side", "aria-hidden": "true"}, stage.stream && place ? "+" : ""),
      h("span", {class: "name"}, stage.name), h("span", {class: "shape mono"}, `(${stage.shape.join(", ")})`),
      cells(stage.values[chosen], stage.limit, stage.name));
      const lines = stage.stream ? [] : [stages[place - 1].stream ? "leaves" : "", stages[place + 1].stream ? "returns" : ""];
      return h("li", {class: stage.stream ? "stream" : ""}, row, place === at ? detail(stage) : null,
        lines.filter(Boolean).map((line) => h("span", {class: line, "aria-hidden": "true"})));
    }));
  }
  controls.move(0);
}
