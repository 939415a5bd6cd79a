// What the tests ask of a page, from inside it. Each function returns a list of faults in words.
window.look = (() => {
  const ARTICLE = ".bd-article-container";
  const words = (element) => {
    const text = (element.getAttribute("aria-label") ?? element.textContent ?? "").replace(/\s+/g, " ").trim();
    const id = element.closest("[id]")?.id ?? "";
    return `${element.tagName.toLowerCase()}.${[...element.classList].join(".")} in #${id}: ${text.slice(0, 60)}`;
  };
  const frames = async (n) => {
    for (let left = n; left; left -= 1) await new Promise((done) => requestAnimationFrame(done));
  };
  const visible = (element) => element.getClientRects().length > 0;

  // An element that can be scrolled sideways and says so: it fades where it goes on, and a keyboard can reach it.
  const cued = (element) =>
    element.classList.contains("scrolls") &&
    element.tabIndex === 0 &&
    /gradient/.test(getComputedStyle(element).maskImage + getComputedStyle(element).webkitMaskImage);

  const scroller = (element) => {
    for (let box = element; box && !box.matches(ARTICLE); box = box.parentElement) {
      if (["auto", "scroll"].includes(getComputedStyle(box).overflowX)) return box;
    }
    return null;
  };

  const layout = async () => {
    await window.MathJax?.startup?.promise;
    await document.fonts.ready;
    await frames(3);
    const root = document.scrollingElement;
    const sideways = root.scrollWidth > window.innerWidth + 1 ? [`the page is ${root.scrollWidth} pixels wide`] : [];
    const column = document.querySelector(ARTICLE).getBoundingClientRect();
    const silent = [];
    const wide = [];
    const kinds = "pre, table, mjx-container, img, svg, canvas, .sig, .text_html, video";
    for (const element of document.querySelectorAll(`${ARTICLE} :is(${kinds})`)) {
      if (!visible(element) || element.parentElement.closest("pre, mjx-container, svg, mjx-assistive-mml")) continue;
      const box = scroller(element);
      const over = box ? box.scrollWidth - box.clientWidth : element.getBoundingClientRect().right - column.right;
      const own = element.scrollWidth - element.clientWidth;
      if (over > 1 || (own > 1 && getComputedStyle(element).overflowX === "hidden")) {
        wide.push(`${words(element)} (${Math.round(Math.max(over, own))} pixels)`);
        if (!(box && cued(box))) silent.push(words(element));
      }
    }
    const images = [...document.images].filter((i) => visible(i) && i.complete && !i.naturalWidth).map((i) => i.src);
    // Cells so narrow that words stand in them as columns of letters.
    const slivers = [...document.querySelectorAll(`${ARTICLE} td`)].filter((cell) => {
      const range = document.createRange();
      range.selectNodeContents(cell);
      const lines = range.getBoundingClientRect().height / (1.5 * parseFloat(getComputedStyle(cell).fontSize));
      return visible(cell) && lines > 8 && cell.textContent.trim().length / lines < 6;
    });
    return { sideways, silent, wide, images, slivers: slivers.map(words) };
  };

  const mathematics = () => {
    const faults = [];
    for (const error of document.querySelectorAll("mjx-merror, [data-mjx-error]")) faults.push(words(error));
    for (const formula of document.querySelectorAll(`${ARTICLE} .math`)) {
      if (!formula.querySelector("mjx-container")) faults.push(`not typeset: ${words(formula)}`);
    }
    const walk = document.createTreeWalker(document.querySelector(ARTICLE), NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const within = walk.currentNode.parentElement;
      if (within.closest("code, pre, script, style, textarea, mjx-container, .sig")) continue;
      if (/\\[([]|\\[a-z]{2,}\b|\$\S/.test(walk.currentNode.data)) faults.push(`TeX is left: ${walk.currentNode.data}`);
    }
    // Closing punctuation that starts a line: it follows a formula on the line above.
    for (const formula of document.querySelectorAll(`${ARTICLE} span.math`)) {
      const next = formula.nextSibling;
      if (next?.nodeType !== Node.TEXT_NODE || !/^[.,;:!?)\]’”]/.test(next.data) || !visible(formula)) continue;
      const range = document.createRange();
      range.setStart(next, 0);
      range.setEnd(next, 1);
      const [mark, before] = [range.getBoundingClientRect(), [...formula.getClientRects()].at(-1)];
      if (mark.top > before.bottom - 2) faults.push(`a line starts with ${next.data.slice(0, 20)}`);
    }
    return faults;
  };

  // A fold is native (details) or has a button that names what it opens.
  const folds = async () => {
    const faults = [];
    for (const fold of document.querySelectorAll(`${ARTICLE} details`)) {
      const summary = fold.querySelector(":scope > summary");
      if (!summary?.textContent.trim()) faults.push(`a fold without words: ${words(fold)}`);
      const [before, content] = [fold.open, [...fold.children].find((child) => child !== summary)];
      summary?.click();
      await frames(1);
      if (fold.open === before) faults.push(`does not fold: ${words(fold)}`);
      fold.open = true;
      if (content && visible(fold) && !visible(content)) faults.push(`opens on nothing: ${words(fold)}`);
    }
    for (const button of document.querySelectorAll(`${ARTICLE} .toggle-button`)) {
      const item = document.getElementById(button.dataset.target);
      const before = item.classList.contains("toggle-hidden");
      button.click();
      await frames(1);
      if (item.classList.contains("toggle-hidden") === before) faults.push(`does not fold: ${words(item)}`);
    }
    for (const proof of document.querySelectorAll(".bd-article .dropdown")) {
      if (!proof.querySelector(".toggle-button, summary")) faults.push(`cannot be folded: ${words(proof)}`);
    }
    return faults;
  };

  // A figure that moves bears the attribute data-moves: each of its controls has a name and changes the picture.
  const picture = (figure) =>
    [...figure.querySelectorAll("svg, output, text, img, table")].map((part) => part.outerHTML).join() +
    [...figure.querySelectorAll("canvas")].map((part) => part.toDataURL()).join();

  const moves = async () => {
    const faults = [];
    for (const figure of document.querySelectorAll(`${ARTICLE} [data-moves]`)) {
      const controls = figure.querySelectorAll("input, select, button");
      if (!controls.length) faults.push(`nothing to move: ${words(figure)}`);
      for (const control of controls) {
        const named = control.labels?.length || control.ariaLabel || control.textContent.trim();
        if (!named) faults.push(`a control without a name: ${words(figure)}`);
        const before = picture(figure);
        if (control.type === "range") {
          control.value = control.value === control.max ? control.min : control.max;
          for (const name of ["input", "change"]) control.dispatchEvent(new Event(name, { bubbles: true }));
        } else if (control.tagName === "SELECT") {
          control.selectedIndex = (control.selectedIndex + 1) % control.options.length;
          for (const name of ["input", "change"]) control.dispatchEvent(new Event(name, { bubbles: true }));
        } else if (!control.disabled) {
          control.click();
        }
        await frames(3);
        if (picture(figure) === before) faults.push(`does not move with ${words(control)}: ${words(figure)}`);
      }
    }
    return faults;
  };

  // An audit takes time with the square of a page, and finds in the thousandth row or token what it finds in the tenth.
  // It leaves formulas out, but would go through their thousands of parts.
  const thin = () => {
    const seen = new Map();
    for (const formula of document.querySelectorAll("mjx-container")) formula.replaceChildren("x");
    for (const element of document.querySelectorAll(`${ARTICLE} :is(tr, li, details, dl.py, pre span)`)) {
      const place = element.matches("pre span") ? "pre" : element.parentElement;
      const kinds = seen.get(place) ?? seen.set(place, new Map()).get(place);
      const kind = `${element.tagName} ${element.className}`;
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
      if (kinds.get(kind) > 10) element.remove();
    }
  };

  return { layout, mathematics, folds, moves, thin };
})();
