// A picture in another language: its words and labels are exchanged as they appear, before the page is drawn.
function speak(mark, words) {
  const known = words.map(([source, instead]) => [new RegExp(`^(?:${source})$`, "s"), instead]);
  function said(text) {
    for (const [pattern, instead] of known) {
      const found = pattern.exec(text);
      if (found) return instead.replace(/\{(\d+)\}/g, (_, number) => said(found[Number(number) + 1]));
    }
    return text;
  }
  function change(node) {
    if (node.nodeType === Node.TEXT_NODE) {
      const instead = said(node.data);
      if (instead !== node.data) node.data = instead;
    } else if (node.nodeType === Node.ELEMENT_NODE && node.localName !== "style") {
      const label = node.getAttribute("aria-label");
      if (label && said(label) !== label) node.setAttribute("aria-label", said(label));
      node.childNodes.forEach(change);
    }
  }
  for (const host of document.querySelectorAll(`[data-llmbook="${mark}"]`)) {
    if (!host.shadowRoot) continue;
    host.shadowRoot.childNodes.forEach(change);
    new MutationObserver((seen) => seen.forEach((one) => {
      if (one.type === "childList") one.addedNodes.forEach(change);
      else change(one.target);
    })).observe(host.shadowRoot,
      {subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["aria-label"]});
  }
}
