// Cards over terms and citations, for mouse, touch and keyboard; and code that can be scrolled with the keyboard.
(function () {
  "use strict";
  const cards = window.llmbookCards || {glossary: {}, references: {}};
  const card = document.createElement("div");
  card.className = "card-over";
  card.id = "card-over";
  card.setAttribute("role", "tooltip");
  card.hidden = true;
  document.body.append(card);
  let owner = null, timer = 0;

  function entry(link) {
    const found = /(glossary|references)\.html#(.+)$/.exec(link.getAttribute("href") || "");
    return found && (cards[found[1]] || {})[decodeURIComponent(found[2])];
  }

  function show(link) {
    const text = entry(link);
    if (!text) return;
    clearTimeout(timer);
    if (owner) owner.removeAttribute("aria-describedby");
    owner = link;
    const title = document.createElement("strong");
    title.textContent = text[0];
    card.replaceChildren(...(text[0] ? [title] : []), text[1]);
    card.hidden = false;
    link.setAttribute("aria-describedby", card.id);
    const box = link.getBoundingClientRect(), width = card.offsetWidth;
    const left = Math.max(16, Math.min(box.left, document.documentElement.clientWidth - width - 16));
    const above = box.bottom + card.offsetHeight + 12 > window.innerHeight && box.top > card.offsetHeight + 12;
    card.style.left = `${left + window.scrollX}px`;
    card.style.top = `${window.scrollY + (above ? box.top - card.offsetHeight - 6 : box.bottom + 6)}px`;
  }

  function hide() {
    clearTimeout(timer);
    card.hidden = true;
    if (owner) owner.removeAttribute("aria-describedby");
    owner = null;
  }

  const later = () => { clearTimeout(timer); timer = setTimeout(hide, 180); };
  for (const link of document.querySelectorAll('article a[href*="glossary.html#"], article a[href*="references.html#"]')) {
    link.addEventListener("mouseenter", () => show(link));
    link.addEventListener("focus", () => show(link));
    link.addEventListener("mouseleave", later);
    link.addEventListener("blur", hide);
  }
  card.addEventListener("mouseenter", () => clearTimeout(timer));
  card.addEventListener("mouseleave", later);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  // What is wider than its frame can be scrolled with the arrow keys only if it can be focused.
  function reachable() {
    for (const block of document.querySelectorAll("article pre, article .table-wrapper")) {
      if (block.scrollWidth > block.clientWidth + 1) block.tabIndex = 0;
      else block.removeAttribute("tabindex");
    }
  }
  reachable();
  window.addEventListener("resize", reachable);
  for (const fold of document.querySelectorAll("details")) fold.addEventListener("toggle", reachable);
})();
