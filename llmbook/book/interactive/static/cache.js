// Generation, one token per step, of one attention head: what is computed without and with a key-value cache.
function build(view, data) {
  const {tokens, query, key, value, prompt} = data;
  const [n, size] = [tokens.length, query[0].length];
  const limit = Math.max(...value.flat().map(Math.abs));
  let step = data.start;  // after step s, prompt + s tokens have been read

  // The context of the token at `row`, from the keys and values of the tokens up to it.
  function contextOf(row) {
    const scores = key.slice(0, row + 1).map((k) => k.reduce((sum, x, i) => sum + x * query[row][i], 0) / Math.sqrt(size));
    const largest = Math.max(...scores);
    const exponentials = scores.map((x) => Math.exp(x - largest));
    const total = exponentials.reduce((sum, x) => sum + x, 0);
    return value[0].map((_, i) => exponentials.reduce((sum, e, place) => sum + (e / total) * value[place][i], 0));
  }

  const names = tokens.map((token) => visible(token.trim() || token));
  const sentence = h("p", {class: "sentence", "data-part": "sentence"});
  const said = h("p", {"data-part": "said", "aria-live": "polite"});
  const sides = h("div", {class: "sides"});
  const counts = h("div", {class: "counts", "data-part": "counts"});
  const context = h("div", {class: "context"});
  const controls = player(n - prompt, step, (next) => {
    step = next;
    show();
  }, "token");
  const key_ = h("p", {class: "key soft"}, h("span", {}, h("i", {class: "computed"}), "computed in this step"),
    h("span", {}, h("i", {class: "kept"}), "read from the cache"), h("span", {}, h("i", {class: "done"}), "computed earlier, not needed again"));
  view.append(controls, sentence, said, sides, key_, counts, context);

  // Rows are the tokens read so far: their key and value, and their scores with the tokens up to them.
  function table(length, fresh, cached) {
    const cell = (kind) => h("span", {class: `box ${kind}`});
    const rows = tokens.map((_, row) => [
      h("span", {class: "name"}, names[row]),
      h("span", {class: `kv ${row >= length ? "later" : row < fresh ? "kept" : "computed"}`, "data-kv": row},
        row >= length ? "" : "k v"),
      tokens.map((_, column) => (row >= length || column > row ? cell("")
        : cell(row < fresh ? "done" : "computed"))),
    ]);
    return h("div", {class: "table", "aria-hidden": "true", "data-table": cached ? "with" : "without",
      style: `grid-template-columns: minmax(34px, max-content) 30px repeat(${n}, minmax(0, 1fr))`},
    h("span", {}), h("span", {class: "top"}, "k, v"), h("span", {class: "top", style: `grid-column: span ${n}`}, "scores with earlier tokens"), rows);
  }

  function work(at) {
    const length = prompt + at;
    const triangle = (length * (length + 1)) / 2;
    const read = at === 0 ? 0 : length - 1;  // rows that the cache holds before the step
    return {length, read, rows: [length, length - read], scores: [triangle, triangle - (read * (read + 1)) / 2]};
  }

  function show() {
    const now = work(step);
    fill(sentence, names.map((name, place) => h("span", {class: place >= now.length ? "token later"
      : place >= now.read ? "token new" : "token"}, name)));
    fill(said, step === 0 ? `The prompt: ${prompt} tokens are read in one pass, with or without a cache.`
      : ["Token ", h("b", {}, names[now.length - 1]), ` has joined. Without a cache, the model reads all ${now.length} tokens again; `
        + `with one, it reads the new token only.`]);
    fill(sides, h("div", {class: "side"}, h("h3", {}, "Without a cache"), table(now.length, 0, false)),
      h("div", {class: "side"}, h("h3", {}, "With a cache"), table(now.length, now.read, true)));
    const all = Array.from({length: step + 1}, (_, at) => work(at));
    const sums = (name, which) => all.reduce((sum, each) => sum + each[name][which], 0);
    const line = (label, part, without, cached, kind = "") => [h("span", {class: kind}, label),
      h("span", {class: `number ${kind}`, "data-count": `${part} without`}, thousands(without)),
      h("span", {class: `number ${kind}`, "data-count": `${part} with`}, thousands(cached))];
    fill(counts, h("span", {}), h("span", {class: "head"}, "without"), h("span", {class: "head"}, "with cache"),
      line("keys and values in this step", "rows", ...now.rows), line("scores in this step", "scores", ...now.scores),
      line("keys and values in all", "all rows", sums("rows", 0), sums("rows", 1), "total"),
      line("scores in all", "all scores", sums("scores", 0), sums("scores", 1)),
      line("numbers in this head's cache", "memory", 0, 2 * size * now.length, "total"));
    const newest = contextOf(now.length - 1);
    fill(context, h("p", {class: "soft"}, "Either way, the context of ", h("b", {}, names[now.length - 1]),
      ` is the same ${newest.length} numbers:`), h("div", {"data-part": "context"}, cells(newest, limit, "context")));
  }
  show();
  controls.move(step);
}
