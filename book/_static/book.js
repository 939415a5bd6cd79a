// What is wider than its column scrolls in its own box, and says so: it fades at the side where it goes on (book.css),
// and the arrow keys reach it. Display equations that are a little too wide for a telephone are first made smaller.
(() => {
  const SMALLEST = 0.8;
  const BOXES = [
    "mjx-container[display='true']",
    "div.math:not(:has(> .eqno))",
    ".too-wide",
    "pre",
    ".cell_output .text_html",
    ".cell_output .text_latex",
    ".pst-scrollable-table-container",
    "dt.sig",
  ];

  const over = (box) => box.scrollWidth - box.clientWidth;

  const shrink = (formula) => {
    formula.dataset.size ??= formula.style.fontSize || "100%"; // MathJax's own
    formula.style.fontSize = formula.dataset.size;
    const needed = formula.clientWidth / formula.scrollWidth;
    if (needed < 1 && needed > SMALLEST) formula.style.fontSize = `calc(${0.98 * needed} * ${formula.dataset.size})`;
  };

  const fade = (box) => {
    const rest = over(box) - box.scrollLeft;
    box.classList.toggle("more-left", box.scrollLeft > 1);
    box.classList.toggle("more-right", rest > 1);
  };

  const mark = (box) => {
    const scrolls = over(box) > 1 && box.getClientRects().length > 0;
    if (scrolls === box.classList.contains("scrolls")) return scrolls && fade(box);
    box.classList.toggle("scrolls", scrolls);
    if (scrolls) {
      box.tabIndex = 0;
      if (!box.hasAttribute("role")) box.setAttribute("role", "group");
      if (!box.hasAttribute("aria-label")) box.setAttribute("aria-label", "Wider than the column: scroll sideways");
      box.addEventListener("scroll", () => fade(box), { passive: true });
      fade(box);
    } else {
      box.classList.remove("more-left", "more-right");
      box.removeAttribute("tabindex");
    }
  };

  // Inline formulas cannot be broken over lines: those that are wider than their line become boxes of their own.
  const box = (formula) => {
    formula.classList.remove("too-wide");
    const line = formula.closest("p, li, dd, figcaption") ?? formula.parentElement;
    const width = formula.querySelector("mjx-math")?.getBoundingClientRect().width ?? 0;
    formula.classList.toggle("too-wide", width > line.clientWidth);
    if (!formula.matches(".too-wide")) formula.classList.remove("scrolls", "more-left", "more-right");
  };

  const all = (selectors) => document.querySelectorAll(`.bd-article-container :is(${selectors})`);
  const look = () => {
    all("span.math:not(table *)").forEach(box);
    all("mjx-container[display='true']").forEach(shrink);
    all(BOXES.join()).forEach(mark);
  };

  // Once a frame, for a click may open many folds.
  let due = 0;
  const soon = () => {
    cancelAnimationFrame(due);
    due = requestAnimationFrame(look);
  };

  window.addEventListener("load", () => {
    for (const summary of document.querySelectorAll(".bd-sidebar-primary summary")) {
      summary.setAttribute("aria-label", `Pages of ${summary.closest("li").querySelector("a").textContent.trim()}`);
    }
    look();
    document.addEventListener("toggle", soon, true); // what was folded had no width
    // A page without formulas has no MathJax to wait for.
    Promise.resolve(window.MathJax?.startup?.promise).then(() => {
      look();
      new ResizeObserver(look).observe(document.querySelector(".bd-article-container") ?? document.body);
    });
  });
})();

// The table of mistakes shows those that hold all the words and belong to the check that is chosen.
(() => {
  const filter = (form) => {
    const mistakes = [...document.querySelectorAll("details.mistake")];
    const texts = mistakes.map((mistake) => mistake.textContent.toLowerCase());
    const show = () => {
      const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
      const check = form.elements.check.value;
      mistakes.forEach((mistake, i) => {
        const wanted = words.every((word) => texts[i].includes(word)) && (!check || mistake.dataset.check === check);
        mistake.hidden = !wanted;
      });
      for (const section of document.querySelectorAll(".bd-article section section:has(details.mistake)")) {
        section.hidden = !section.querySelector("details.mistake:not([hidden])");
      }
      const shown = mistakes.filter((mistake) => !mistake.hidden);
      form.querySelector("output").textContent = `${shown.length} of ${mistakes.length}`;
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", show);
    show();
  };
  const open = () => {
    const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (named?.matches("details")) named.open = true;
  };
  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("form.mistake-filter").forEach(filter);
    window.addEventListener("hashchange", open);
    open();
  });
})();
