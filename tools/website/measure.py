"""How heavy pages are and how soon they are seen from disk: `python -m tools.website.measure build/site/html`.

A page's weight is all that it loads when it opens: its file, styles, scripts and the pictures near its top (those
further down come when they are scrolled to), and beside it the weight with every picture. The paint is the time from
the address to the first text on the screen; other work on the machine can only make it later, so the least of some
tries is shown. `work` is what the page's thread computed until it was loaded, in its own time, which a busy machine
leaves alone.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from tools.website.checks import read_site

__all__ = ["every_byte", "measure"]

PAGES = ("index.html", "notebooks/03_attention.html", "notebooks/zh/03_attention.html", "search.html")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PAINT = """() => new Promise(done => {
  const seen = () => performance.getEntriesByName('first-contentful-paint')[0];
  const wait = () => seen() ? done(seen().startTime) : setTimeout(wait, 20);
  wait();
})"""


def every_byte(site: Path, name: str) -> int:
    """What a page loads in all, with every picture and shared file."""
    page, folder = read_site(site, [site / name])[name], (site / name).parent
    styles = [link for link in page.links if ".css" in link]
    files = {(folder / file.split("?")[0]).resolve() for file in [*page.files, *styles]}
    return (site / name).stat().st_size + sum(file.stat().st_size for file in files if file.is_file())


def measure(browser: object, site: Path, name: str, tries: int = 5) -> tuple[int, float, float]:
    """Bytes loaded at first, milliseconds to the first paint, and of the page's own work: the least of `tries`."""
    found = []
    for _ in range(tries):
        context = browser.new_context(viewport={"width": 1300, "height": 900})  # nothing kept from the last try
        page = context.new_page()
        page.set_default_timeout(120_000)
        loaded: set[str] = set()
        page.on("request", lambda request, loaded=loaded: loaded.add(request.url.split("?")[0].split("#")[0]))
        session = context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto((site / name).as_uri())
        page.wait_for_load_state("load")
        paint = page.evaluate(PAINT)
        work = next(one["value"] for one in session.send("Performance.getMetrics")["metrics"]
                    if one["name"] == "TaskDuration")
        size = sum(Path(url.removeprefix("file://")).stat().st_size for url in loaded if url.startswith("file://"))
        found.append((size, paint, 1000 * work))
        context.close()
    return tuple(min(values) for values in zip(*found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("site", type=Path, help="the built site, build/site/html")
    parser.add_argument("pages", nargs="*", default=PAGES, help=f"default: {' '.join(PAGES)}")
    parser.add_argument("--tries", type=int, default=5)
    options = parser.parse_args()
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        print(f"no browser: none of {', '.join(BROWSERS)} is on the path", file=sys.stderr)
        return 1
    from playwright.sync_api import sync_playwright

    site = options.site.resolve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        print(f"{'page':34}{'at first':>10}{'in all':>10}{'paint':>10}{'work':>10}")
        for name in options.pages:
            size, paint, work = measure(browser, site, name, options.tries)
            print(f"{name:34}{size / 1000:7.0f} kB{every_byte(site, name) / 1000:7.0f} kB{paint:7.0f} ms{work:7.0f} ms")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
