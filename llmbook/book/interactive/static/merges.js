// Byte-pair encoding on the reader's own text: as chapter 2's train_bpe, in the plainest way.
const SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const CHUNKS = new RegExp("'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^" + SPACE + "\\p{L}\\p{N}]+"
  + "|[" + SPACE + "]+$|[" + SPACE + "]+(?![^" + SPACE + "])|[" + SPACE + "]", "gu");

function build(view, data) {
  let text = data.text;
  let step = data.start;
  let learned = [];  // [left id, right id, how often]; merge i makes the id 256 + i
  let tokens = [];  // the bytes of each id

  const chunksOf = (words) => Array.from(words.matchAll(CHUNKS), (match) => Array.from(new TextEncoder().encode(match[0])));

  function join(ids, left, right, made) {
    const result = [];
    for (let place = 0; place < ids.length; place++) {
      if (ids[place] === left && ids[place + 1] === right) {
        result.push(made);
        place++;
      } else result.push(ids[place]);
    }
    return result;
  }

  // The pairs of neighbours, the most frequent first; among equals the one with the lowest ids.
  function countPairs(chunks) {
    const counts = new Map();
    for (const ids of chunks) {
      for (let place = 0; place + 1 < ids.length; place++) {
        const pair = ids[place] * 65536 + ids[place + 1];
        counts.set(pair, (counts.get(pair) || 0) + 1);
      }
    }
    return [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0])
      .map(([pair, count]) => [Math.floor(pair / 65536), pair % 65536, count]);
  }

  function learn() {
    tokens = Array.from({length: 256}, (_, byte) => [byte]);
    learned = [];
    let chunks = chunksOf(text);
    while (learned.length < data.most) {
      const best = countPairs(chunks)[0];
      if (!best) break;
      chunks = chunks.map((ids) => join(ids, best[0], best[1], 256 + learned.length));
      tokens.push([...tokens[best[0]], ...tokens[best[1]]]);
      learned.push(best);
    }
  }

  function chunksAfter(number) {
    return learned.slice(0, number).reduce((chunks, [left, right], place) => chunks.map((ids) =>
      join(ids, left, right, 256 + place)), chunksOf(text));
  }

  function written(id) {
    try {
      return visible(new TextDecoder("utf-8", {fatal: true, ignoreBOM: true}).decode(new Uint8Array(tokens[id])));
    } catch {  // a part of a character
      return tokens[id].map((byte) => `<${byte.toString(16).padStart(2, "0")}>`).join("");
    }
  }

  const area = h("textarea", {"aria-label": "Your text", maxlength: data.longest, spellcheck: "false", "data-part": "own"});
  area.value = text;
  area.addEventListener("input", () => {
    text = area.value;
    learn();
    controls.steps = learned.length;
    controls.move(0);
  });
  const said = h("p", {class: "said", "data-part": "said", "aria-live": "polite"});
  const facts = h("p", {class: "facts", "data-part": "facts"});
  const shown = h("div", {class: "tokens mono", "data-part": "tokens"});
  const pairs = h("div", {class: "pairs", "data-part": "pairs"});
  const done = h("div", {class: "learned mono", "data-part": "learned", tabindex: 0, role: "group", "aria-label": "merges learned"});
  learn();
  const controls = player(learned.length, Math.min(step, learned.length), (next) => {
    step = next;
    show();
  }, "merge");
  view.append(h("label", {class: "own", "aria-hidden": "true"}, "Your text: change it"), area, controls, said, facts, shown,
    h("div", {class: "lists"}, h("div", {}, h("h3", {}, "Most frequent pairs now"), pairs),
      h("div", {}, h("h3", {}, "Merges learned"), done)));

  function show() {
    const chunks = chunksAfter(step);
    const ranking = countPairs(chunks);
    const [next, made] = [ranking[0], step ? 255 + step : -1];
    if (!step) fill(said, "At first every byte is a token. The most frequent pair of neighbours becomes one token: press ", h("b", {}, "Next merge"), ".");
    else {
      const [left, right, count] = learned[step - 1];
      const times = count === 1 ? "once" : `${count} times`;
      fill(said, `Merge ${step}: `, h("b", {class: "mono"}, `${written(left)} + ${written(right)} \u2192 ${written(made)}`),
        `. This pair stood in the text ${times}, and no other more often.`);
      if (step === learned.length) said.append(step < data.most ? " No pair is left." : " This picture stops here.");
    }
    const total = chunks.reduce((sum, ids) => sum + ids.length, 0);
    const bytes = new TextEncoder().encode(text).length;
    fill(facts, h("span", {}, "bytes ", h("b", {}, thousands(bytes))), h("span", {}, "tokens ", h("b", {"data-fact": "tokens"}, thousands(total))),
      h("span", {}, "bytes per token ", h("b", {}, total ? (bytes / total).toFixed(2) : "\u2013")),
      h("span", {}, "vocabulary ", h("b", {"data-fact": "vocabulary"}, `256 + ${step}`)));
    let number = 0;
    const pieces = chunks.flatMap((ids) => ids.map((id, place) => {
      const begins = next && id === next[0] && ids[place + 1] === next[1];
      const ends = next && place && id === next[1] && ids[place - 1] === next[0];
      const classes = ["token", number++ % 2 ? "odd" : "", place ? "" : "first", id === made ? "new" : "", begins || ends ? "next" : ""];
      return [h("span", {class: classes.filter(Boolean).join(" "), "data-id": id}, written(id)), "\u200b"];
    }));
    fill(shown, pieces);
    const most = next ? next[2] : 1;
    fill(pairs, ranking.slice(0, 6).map(([left, right, count], place) => [
      h("span", {class: place ? "mono" : "mono best"}, `${written(left)} + ${written(right)}`),
      h("span", {class: "track"}, h("span", {class: place ? "bar" : "bar best", style: `width:${(100 * count) / most}%`})),
      h("span", {class: place ? "number" : "number best", "data-count": place}, count)]));
    if (!ranking.length) fill(pairs, h("span", {class: "soft"}, "none: every chunk is one token"));
    fill(done, learned.slice(0, step).map(([left, right, count], place) => h("span", {class: place === step - 1 ? "new" : "",
      title: `${count} times`}, written(256 + place))));
    if (!step) fill(done, h("span", {class: "soft", style: "border:0;padding:0"}, "none yet"));
    done.scrollTop = done.scrollHeight;
  }
  controls.move(Math.min(step, learned.length));
}
