// Inline formulas cannot be broken over lines: those that are wider than their line scroll (see book.css).
(() => {
  const mark = () => {
    for (const formula of document.querySelectorAll(".bd-article span.math:not(table *)")) {
      formula.classList.remove("too-wide");
      const line = formula.closest("p, li, dd, figcaption") ?? formula.parentElement;
      formula.classList.toggle("too-wide", formula.getBoundingClientRect().width > line.clientWidth);
    }
  };
  window.addEventListener("load", () => window.MathJax?.startup?.promise.then(mark));
  window.addEventListener("resize", mark);
})();
